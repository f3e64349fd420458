//! What is said of many numbers: median, least, ninetieth percentile. No mean: one stolen slice of the processor spoils it.

/// The numbers of one place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) p90: f64,
    pub(crate) n: usize,
}

impl Summary {
    /// Returns `None` of nothing.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: median(&values)?,
            min: *values.first()?,
            p90: nearest_rank(&values, 90)?,
            n: values.len(),
        })
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let (low, high) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// The least value that so many percent of all are not above.
fn nearest_rank(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlier_moves_neither_median_nor_p90_of_ten() {
        let values = vec![900.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
        assert_eq!(Summary::of(values), Some(Summary { median: 5.5, min: 1.0, p90: 9.0, n: 10 }));
    }

    #[test]
    fn one_number_is_all_of_them_and_none_is_nothing() {
        assert_eq!(Summary::of(vec![4.0]), Some(Summary { median: 4.0, min: 4.0, p90: 4.0, n: 1 }));
        assert_eq!(Summary::of(Vec::new()), None);
    }
}
