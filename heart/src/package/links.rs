//! Where a symbolic link may point.

/// True when a link in a directory `depth` levels below the root cannot lead out of the root.
///
/// `..` is taken at the front only, and at most `depth` times. Behind a name it would be resolved
/// after that name, which may itself be a link to a shallower directory: `a -> ../..` followed by
/// `b -> a/../secret` leads out although it does not look like it. With this rule every link of a
/// tree leads inside it, by induction over the links that a path passes.
pub(super) fn target_stays_inside(target: &[u8], depth: usize) -> bool {
    if target.is_empty() || target.starts_with(b"/") || target.contains(&0) {
        return false;
    }
    let mut ups = 0;
    let mut has_name = false;
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if has_name => return false,
            b".." => ups += 1,
            _ => has_name = true,
        }
    }
    ups <= depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        for (target, depth) in [
            ("a", 0),
            ("./a/b", 0),
            ("..", 1),
            ("../a", 1),
            ("../../a//b", 2),
        ] {
            assert!(target_stays_inside(target.as_bytes(), depth), "{target}");
        }
        for (target, depth) in [
            ("", 3),
            ("/a", 3),
            ("..", 0),
            ("../../a", 1),
            ("a/..", 3),
            ("a/../../b", 3),
            ("a\0b", 3),
        ] {
            assert!(!target_stays_inside(target.as_bytes(), depth), "{target}");
        }
    }
}
