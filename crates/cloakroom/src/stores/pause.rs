//! How long a waiter that nobody wakes lets pass between two questions.

use std::time::Duration;

use super::token::Token;

/// The time between two questions: a quarter of a millisecond while it is quick, then from 1 ms to 20 ms; never quite
/// the same for two waiters.
pub(crate) struct Pause {
    longest: Duration,
    quick: u32,
    random: u64,
}

impl Pause {
    pub(crate) fn new(token: &Token, quick: u32) -> Self {
        let random = u64::from_str_radix(&token.digits()[..16], 16).unwrap_or(1) | 1;
        Pause { longest: Duration::from_millis(1), quick, random }
    }

    /// The next pause of the waiter at this place.
    pub(crate) fn next(&mut self, place: u32) -> Duration {
        let longest = match self.quick {
            0 => self.longest,
            _ => Duration::from_micros(250),
        };
        match self.quick {
            0 => self.longest = longest.mul_f64(1.3).min(Duration::from_millis(20)),
            _ => self.quick -= 1,
        }
        let pause = self.about(longest);
        // Those further behind need not look as often.
        pause.max(Duration::from_millis(u64::from(place.min(10)) * 2))
    }

    /// Between half of this and all of it.
    pub(crate) fn about(&mut self, longest: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let part = (self.random >> 11) as f64 / (1u64 << 53) as f64;
        longest.mul_f64(0.5 + part / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_one_to_twenty_milliseconds() {
        let mut pause = Pause::new(&Token::new().unwrap(), 0);
        let pauses: Vec<Duration> = (0..40).map(|_| pause.next(0)).collect();
        assert!(pauses[0] <= Duration::from_millis(1), "{pauses:?}");
        assert!(pauses[39] >= Duration::from_millis(10), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_millis(20)), "{pauses:?}");
    }
}
