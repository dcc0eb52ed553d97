//! The Prometheus text format, version 0.0.4: families of one sample, all with the same labels.

use std::fmt::Display;

/// A page of metrics that is being written.
pub(crate) struct Exposition {
    text: String,
    /// `{scope="...",name="..."}`.
    labels: String,
}

impl Exposition {
    /// An empty page; every sample will have these labels, in this order.
    pub(crate) fn new(labels: &[(&str, &str)]) -> Self {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        Self { text: String::new(), labels: format!("{{{}}}", labels.join(",")) }
    }

    /// A value that goes up and down.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, help, None, "gauge", &value);
    }

    /// A gauge that is 1 or 0.
    pub(crate) fn flag(&mut self, name: &str, help: &str, is_set: bool) {
        self.gauge(name, help, u8::from(is_set));
    }

    /// A gauge with a comment of one line between its `HELP` and its `TYPE`.
    pub(crate) fn gauge_with_comment(&mut self, name: &str, help: &str, comment: &str, value: impl Display) {
        self.family(name, help, Some(comment), "gauge", &value);
    }

    /// A value that goes up.
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, help, None, "counter", &value);
    }

    fn family(&mut self, name: &str, help: &str, comment: Option<&str>, kind: &str, value: &dyn Display) {
        let comment = comment.map(|comment| format!("# {comment}\n")).unwrap_or_default();
        let labels = &self.labels;
        self.text.push_str(&format!(
            "# HELP {name} {help}\n{comment}# TYPE {name} {kind}\n{name}{labels} {value}\n"
        ));
    }

    /// The page.
    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped_and_nothing_else_is() {
        for (value, escaped) in [
            ("demo", "demo"),
            ("a\"b", "a\\\"b"),
            ("a\\nb", "a\\\\nb"),
            ("a\nb", "a\\nb"),
            ("d\u{e9}mo{x=y}, z\t", "d\u{e9}mo{x=y}, z\t"),
        ] {
            assert_eq!(escape(value), escaped, "{value:?}");
        }
    }

    #[test]
    fn a_family_is_help_comment_type_and_one_sample() {
        let mut page = Exposition::new(&[("scope", "s"), ("name", "n")]);
        page.gauge_with_comment("a", "What a is.", "0=x", -1);
        page.counter("b", "What b is.", 7);
        let wanted = "# HELP a What a is.\n# 0=x\n# TYPE a gauge\na{scope=\"s\",name=\"n\"} -1\n\
                      # HELP b What b is.\n# TYPE b counter\nb{scope=\"s\",name=\"n\"} 7\n";
        assert_eq!(page.into_text(), wanted);
    }
}
