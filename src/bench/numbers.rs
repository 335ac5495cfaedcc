//! Medians, ratios and percentiles.

/// The middle value, of an even number the mean of the middle two; `None` of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(sorted[middle - 1], upper))
}

/// `value` to `base`; `None` where one is missing or there is nothing to compare with.
#[must_use]
pub fn ratio(value: Option<f64>, base: Option<f64>) -> Option<f64> {
    let base = base.filter(|base| *base > 0.0)?;
    Some(value? / base)
}

/// The smallest value that `per_mille` of the values do not exceed (nearest rank); `None` of nothing. `sorted` has to be.
#[must_use]
pub fn percentile(sorted: &[u64], per_mille: usize) -> Option<u64> {
    let rank = (sorted.len() * per_mille).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied()
}

/// For reading: three digits that mean something, never more than two behind the point.
#[must_use]
pub fn rounded(value: f64) -> f64 {
    let factor = match value.abs() {
        small if small < 10.0 => 100.0,
        middle if middle < 100.0 => 10.0,
        _ => 1.0,
    };
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        for (values, expected) in
            [(&[][..], None), (&[3.0], Some(3.0)), (&[9.0, 1.0, 5.0], Some(5.0)), (&[1.0, 2.0, 10.0, 4.0], Some(3.0))]
        {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_ratio_needs_both_sides() {
        assert_eq!(ratio(Some(1.0), Some(4.0)), Some(0.25));
        for (value, base) in [(None, Some(1.0)), (Some(1.0), None), (Some(1.0), Some(0.0))] {
            assert_eq!(ratio(value, base), None, "{value:?} to {base:?}");
        }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<u64> = (1..=100).collect();
        for (per_mille, expected) in [(0, 1), (500, 50), (505, 51), (950, 95), (990, 99), (1000, 100)] {
            assert_eq!(percentile(&hundred, per_mille), Some(expected), "{per_mille}");
        }
        assert_eq!((percentile(&[7], 500), percentile(&[7], 990), percentile(&[], 500)), (Some(7), Some(7), None));
    }

    #[test]
    fn rounding_keeps_what_means_something() {
        for (value, expected) in
            [(0.0, 0.0), (0.8349, 0.83), (9.999, 10.0), (12.345, 12.3), (3351.7, 3352.0), (-0.126, -0.13)]
        {
            assert!((rounded(value) - expected).abs() < 1e-9, "{value}: {}", rounded(value));
        }
    }
}
