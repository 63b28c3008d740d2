//! Pure: which backend gets a request.
//!
//! Two backends are drawn at random and the one with fewer requests in flight is taken: nearly as
//! even as asking all of them, at the cost of two looks, and without the herd that "the least
//! loaded" gathers. Randomness is an input.

/// What is known of a backend when it could be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    /// May be chosen; it has so many requests in flight.
    Usable(u64),
    /// Refused a connection lately, or closed one under this request; chosen only when no other is usable.
    Ejected,
    /// Has failed this request already; never chosen.
    Excluded,
}

/// Chooses one of `count` candidates; `None` when there is none that is not excluded.
pub(crate) fn choose(
    count: usize,
    random: u64,
    candidate: impl Fn(usize) -> Candidate,
) -> Option<usize> {
    if count == 0 {
        return None;
    }
    let first = draw(random, count);
    if count > 1 {
        let second = (first + 1 + draw(random.rotate_right(32), count - 1)) % count;
        match (candidate(first), candidate(second)) {
            (Candidate::Usable(one), Candidate::Usable(other)) => {
                return Some(if other < one { second } else { first });
            }
            (Candidate::Usable(_), _) => return Some(first),
            (_, Candidate::Usable(_)) => return Some(second),
            (
                Candidate::Ejected | Candidate::Excluded,
                Candidate::Ejected | Candidate::Excluded,
            ) => {}
        }
    }
    let find = |wanted: fn(Candidate) -> bool| {
        (0..count)
            .map(|step| (first + step) % count)
            .find(|index| wanted(candidate(*index)))
    };
    find(|found| matches!(found, Candidate::Usable(_)))
        .or_else(|| find(|found| found == Candidate::Ejected))
}

/// Maps a random number to `0..count` by its low half (Lemire's multiplication).
fn draw(random: u64, count: usize) -> usize {
    let low = random & u64::from(u32::MAX);
    let count = u64::try_from(count).unwrap_or(u64::MAX) & u64::from(u32::MAX);
    usize::try_from((low * count) >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        proptest::collection::vec(
            prop_oneof![
                (0..100_u64).prop_map(Candidate::Usable),
                Just(Candidate::Ejected),
                Just(Candidate::Excluded),
            ],
            0..20,
        )
    }

    #[test]
    fn the_less_loaded_of_two_is_taken() {
        for random in 0..1000_u64 {
            let random = random.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            assert_eq!(
                choose(2, random, |index| Candidate::Usable([5, 3][index])),
                Some(1)
            );
        }
    }

    #[test]
    fn equal_backends_share_the_requests() {
        let mut counts = [0_u32; 5];
        for random in 0..10_000_u64 {
            let random = random.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17);
            counts[choose(5, random, |_| Candidate::Usable(0)).unwrap()] += 1;
        }
        assert!(
            counts.iter().all(|count| (1600..2400).contains(count)),
            "{counts:?}"
        );
    }

    proptest! {
        #[test]
        fn a_usable_one_is_found_whenever_there_is_one(list in candidates(), random: u64) {
            let chosen = choose(list.len(), random, |index| list[index]);
            let has_usable = list.iter().any(|found| matches!(found, Candidate::Usable(_)));
            let has_ejected = list.contains(&Candidate::Ejected);
            match chosen.map(|index| list[index]) {
                Some(Candidate::Usable(_)) => prop_assert!(has_usable),
                Some(Candidate::Ejected) => prop_assert!(!has_usable),
                Some(Candidate::Excluded) => prop_assert!(false, "an excluded one was chosen"),
                None => prop_assert!(!has_usable && !has_ejected),
            }
        }

        #[test]
        fn the_choice_depends_on_its_inputs_alone(list in candidates(), random: u64) {
            let once = choose(list.len(), random, |index| list[index]);
            let again = choose(list.len(), random, |index| list[index]);
            prop_assert_eq!(once, again);
        }
    }
}
