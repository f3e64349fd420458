//! Names that somebody may have meant who typed another.

/// Bytes of the longest name that is offered: nobody means one that does not fit on a line or two.
const LONGEST: usize = 256;

/// Returns up to three of `names` that somebody who typed `text` may have meant, nearest first.
pub fn near<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let limit = text.len() / 3 + 1;
    // What is much longer or shorter is never near, and lists are strangers': nothing is reserved for their length.
    let may_be = |name: &&str| name.len().abs_diff(text.len()) <= limit;
    let mut scored: Vec<(usize, &str)> = names
        .filter(|name| may_be(name) || (name.starts_with(text) && name.len() <= LONGEST))
        .map(|name| (if name.starts_with(text) { 1 } else { distance(text, name) }, name))
        .filter(|(score, _)| *score <= limit)
        .collect();
    scored.sort();
    scored.into_iter().map(|(_, name)| name).take(3).collect()
}

/// Levenshtein's distance with swapped neighbours counted as one, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        let names = ["debian", "devel", "dev", "alpine"];
        assert_eq!(near("debain", names.into_iter()), ["debian"]);
        assert_eq!(near("deb", names.into_iter()), ["debian", "dev"]);
        assert!(near("zzz", names.into_iter()).is_empty());
        let endless = "debia".repeat(20 << 20);
        assert_eq!(near("debian", [endless.as_str(), "debian-12"].into_iter()), ["debian-12"]);
        assert!(near("debia", [endless.as_str()].into_iter()).is_empty());
    }
}
