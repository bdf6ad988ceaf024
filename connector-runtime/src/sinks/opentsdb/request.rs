//! The points of a batch, cut into requests that the server reads.

use super::point::Point;

/// The points of one request.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) points: Vec<Point>,
    /// For each of them, the place of its record in the batch; ascending.
    pub(super) places: Vec<usize>,
    bytes: usize,
}

impl Request {
    /// Brackets and commas of an array.
    const AROUND: usize = 2;
    const BETWEEN: usize = 1;

    fn takes(&self, point: &Point, bytes_max: usize) -> bool {
        self.points.is_empty() || self.bytes + Self::BETWEEN + point.text.len() <= bytes_max
    }

    fn push(&mut self, place: usize, point: Point) {
        self.bytes += point.text.len() + if self.points.is_empty() { Self::AROUND } else { Self::BETWEEN };
        self.places.push(place);
        self.points.push(point);
    }

    /// A JSON array.
    pub(super) fn body(&self) -> String {
        let texts: Vec<&str> = self.points.iter().map(|point| point.text.as_str()).collect();
        format!("[{}]", texts.join(","))
    }
}

/// In order, none above `bytes_max`; a point that is larger by itself goes alone.
pub(super) fn requests(points: impl IntoIterator<Item = (usize, Point)>, bytes_max: usize) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    for (place, point) in points {
        match requests.last_mut().filter(|last| last.takes(&point, bytes_max)) {
            Some(last) => last.push(place, point),
            None => {
                let mut next = Request::default();
                next.push(place, point);
                requests.push(next);
            }
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    #[test]
    fn requests_are_full_and_never_above_the_bound() {
        let point = |length: usize| Point {
            text: "x".repeat(length),
            metric: String::new(),
            value: String::new(),
            timestamp_ms: 1,
            tags: Map::new(),
        };
        let check = |lengths: &[usize], expect: &[&[usize]]| {
            let points = lengths.iter().enumerate().map(|(place, length)| (place, point(*length)));
            let made = requests(points, 20);
            let places: Vec<&[usize]> = made.iter().map(|request| request.places.as_slice()).collect();
            assert_eq!(places, expect, "{lengths:?}");
            for request in &made {
                assert!(request.body().len() <= 20 || request.points.len() == 1, "{lengths:?}");
            }
        };
        check(&[], &[]);
        check(&[18], &[&[0]]);
        check(&[8, 9, 1], &[&[0, 1], &[2]]);
        check(&[8, 10], &[&[0], &[1]]);
        check(&[5, 50, 5, 5, 5], &[&[0], &[1], &[2, 3, 4]]);
    }
}
