//! What is printed: a line for each measure, with the ratio of the last system to each other.

/// The columns.
pub(crate) struct Table {
    has_former: bool,
}

impl Table {
    pub(crate) fn new(has_former: bool) -> Self {
        Self { has_former }
    }

    pub(crate) fn head(&self) {
        let former = if self.has_former {
            format!("{:>12} ", "former")
        } else {
            String::new()
        };
        println!(
            "{:<28} {:>12} {former}{:>12}  ratio to each",
            "median of rounds", "etcd", "paasmaker"
        );
    }

    /// One line: the values of each system, and for each the rounds' ratios of the last to it.
    pub(crate) fn row(&self, name: &str, systems: &[Vec<f64>]) {
        let Some(ours) = systems.last() else { return };
        let values = systems
            .iter()
            .map(|values| format!("{:>12}", shown(median(values.clone()))));
        let ratios = systems[..systems.len() - 1].iter().map(|theirs| {
            let ratios = theirs.iter().zip(ours).map(|(theirs, ours)| ours / theirs);
            format!("{:>6}", shown(median(ratios.collect())))
        });
        let values = values.collect::<Vec<_>>().join(" ");
        let ratios = ratios.collect::<Vec<_>>().join(" ");
        println!("{name:<28} {values} {ratios}");
    }
}

/// A value that one of the systems does not have is a dash.
fn shown(value: f64) -> String {
    if value.is_nan() {
        "-".to_owned()
    } else {
        format!("{value:.2}")
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
