//! Query strings (contract surface A.1): form decoding, blank values dropped, the first value of a key counts.

/// Decoded parameters, each key once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what stands after the `?`; never fails.
    pub fn parse(text: &str) -> Self {
        let mut query = Self::default();
        for pair in text.split('&') {
            let Some((key, value)) = pair.split_once('=') else { continue };
            let (key, value) = (decode(key), decode(value));
            if !value.is_empty() && query.get(&key).is_none() {
                query.0.push((key, value));
            }
        }
        query
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Every key with its value, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// `+` is a blank, `%XX` a byte; what is not UTF-8 is replaced, a broken escape stands for itself.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = if byte == b'%' { bytes.get(at + 1..at + 3).and_then(hex_byte) } else { None };
        match (byte, escaped) {
            (_, Some(value)) => {
                decoded.push(value);
                at += 2;
            }
            (b'+', _) => decoded.push(b' '),
            (other, _) => decoded.push(other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*digits.first()?)? * 16 + digit(*digits.get(1)?)?)
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn first_value_counts_and_blanks_are_dropped() {
        let query = Query::parse("lag=&lag=5&lag=6&tag_x&a=1+2&b=in%20archive%2&&=&c=%zz%41");
        assert_eq!(query.get("lag"), Some("5"));
        assert_eq!(query.get("tag_x"), None);
        assert_eq!(query.get("a"), Some("1 2"));
        assert_eq!(query.get("b"), Some("in archive%2"));
        assert_eq!(query.get("c"), Some("%zzA"));
        assert_eq!(query.iter().count(), 4);
    }

    #[test]
    fn bytes_that_are_not_utf8_do_not_matter() {
        assert_eq!(Query::parse("a=%ff").get("a"), Some("\u{fffd}"));
    }
}
