//! What happened, as a hash (FNV-1a, 64 bits) and on request as text.

use ptarmigan_types::Monotonic;

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// An empty trace; `keep`: the lines are kept too.
    pub fn new(keep: bool) -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, lines: keep.then(Vec::new) }
    }

    /// Notes an event.
    pub fn note(&mut self, at: Monotonic, who: &str, what: &str) {
        self.add(&at.0.to_le_bytes());
        self.add(who.as_bytes());
        self.add(what.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>10.3} {who:<8} {what}", at.0 as f64 / 1e6));
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    /// Whether lines are kept.
    pub const fn keeps_lines(&self) -> bool {
        self.lines.is_some()
    }

    /// The hash so far.
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines; empty where none are kept.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
