//! Numbers of several rounds.

/// What one side reached, round by round.
#[derive(Default)]
pub struct Rounds {
    pub per_second: Vec<f64>,
    /// CPU seconds, for as many records as the table says.
    pub cpu: Vec<f64>,
}

impl Rounds {
    pub fn last(&self) -> f64 {
        self.per_second.last().copied().unwrap_or(f64::NAN)
    }
}

/// The middle one, or the mean of the two in the middle; not a number when there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    match count {
        0 => f64::NAN,
        _ if count % 2 == 1 => sorted[count / 2],
        _ => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

pub fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

/// Round by round, so that what disturbed a round disturbs both of its sides.
pub fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    median(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_of_rounds() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(worst(&[1.0, 3.0, 2.0]), 3.0);
        // A slow round for both does not count as a bad one for us.
        assert_eq!(ratio(&[10.0, 5.0, 12.0], &[5.0, 2.5, 4.0]), 2.0);
    }
}
