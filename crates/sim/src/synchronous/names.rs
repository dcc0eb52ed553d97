//! `synchronous_standby_names` as PostgreSQL reads it. Written for itself: the core's reader is what it is compared with.

/// Whom commits wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// `ANY`: whichever are the furthest, instead of the first ones that are connected.
    pub any: bool,
    /// How many.
    pub count: usize,
    /// Who, in lower case.
    pub list: Vec<String>,
}

impl Names {
    /// Reads the value; what PostgreSQL would refuse names nobody.
    pub fn read(text: &str) -> Self {
        let text = text.trim();
        let (any, rest) = match text.split_once(char::is_whitespace) {
            Some((word, rest)) if word.eq_ignore_ascii_case("any") => (true, rest.trim()),
            Some((word, rest)) if word.eq_ignore_ascii_case("first") => (false, rest.trim()),
            _ => (false, text),
        };
        let counted = rest.split_once('(').and_then(|(count, list)| {
            let list = list.trim().strip_suffix(')')?;
            Some((count.trim().parse().ok()?, list))
        });
        let (count, list) = counted.unwrap_or((1, rest));
        let name = |item: &str| item.trim().trim_matches('"').to_lowercase();
        let list: Vec<String> = list.split(',').map(name).filter(|name| !name.is_empty()).collect();
        let count = if list.is_empty() { 0 } else { count };
        Self { any, count, list }
    }

    /// Commits wait for nobody.
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// `sync_priority` of a standby of that name; 0: nobody waits for it.
    pub fn priority(&self, name: &str) -> usize {
        let place = self.list.iter().position(|listed| listed == "*" || listed.eq_ignore_ascii_case(name));
        match place {
            None => 0,
            Some(_) if self.any => 1,
            Some(place) => place + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_is_written_is_read() {
        let names = |any, count, list: &[&str]| Names {
            any,
            count,
            list: list.iter().map(ToString::to_string).collect(),
        };
        for (text, expected) in [
            ("", Names::default()),
            ("m1", names(false, 1, &["m1"])),
            ("\"m-1\"", names(false, 1, &["m-1"])),
            ("2 (m1,M2)", names(false, 2, &["m1", "m2"])),
            ("FIRST 1 (m1, m2)", names(false, 1, &["m1", "m2"])),
            ("ANY 1 (m1)", names(true, 1, &["m1"])),
            ("any 2 (m1,\"m2\")", names(true, 2, &["m1", "m2"])),
            ("*", names(false, 1, &["*"])),
        ] {
            assert_eq!(Names::read(text), expected, "{text}");
        }
        let first = Names::read("2 (m1,m2)");
        assert_eq!(["m1", "m2", "m3"].map(|name| first.priority(name)), [1, 2, 0]);
        assert_eq!(Names::read("ANY 1 (m1,m2)").priority("m2"), 1);
    }
}
