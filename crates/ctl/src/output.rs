//! Rows in each of the output formats.

use ptarmigan_config::yaml::to_yaml;
use ptarmigan_types::{pyjson, scalar};
use serde_json::{Map, Value};

use crate::{
    cli::Format,
    table::{self, Align},
};

/// A column: its header in the table, its name elsewhere, and where its cells stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// In a table.
    pub(crate) header: &'static str,
    /// In tsv, JSON and YAML.
    pub(crate) name: &'static str,
    /// In a table.
    pub(crate) align: Align,
}

impl Column {
    /// A column of text.
    pub(crate) const fn left(name: &'static str) -> Self {
        Self { header: name, name, align: Align::Left }
    }

    /// A column of numbers.
    pub(crate) const fn right(name: &'static str) -> Self {
        Self { header: name, name, align: Align::Right }
    }
}

/// Rows with their columns; a cell that is `null` is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    /// What the rows consist of.
    pub(crate) columns: Vec<Column>,
    /// One cell for each column.
    pub(crate) rows: Vec<Vec<Value>>,
    /// Laid over the top rule of a table.
    pub(crate) title: Option<String>,
}

impl Rows {
    /// The text to print, line ends included.
    pub(crate) fn render(&self, format: Format) -> String {
        match format {
            Format::Pretty => self.pretty(),
            Format::Tsv => self.tsv(),
            Format::Json => format!("{}\n", pyjson::spaced(&self.objects())),
            Format::Yaml | Format::Yml => format!("{}\n", to_yaml(&self.objects())),
        }
    }

    fn pretty(&self) -> String {
        let header: Vec<_> = self.columns.iter().map(|column| (column.header, column.align)).collect();
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(cell_text).collect()).collect();
        table::draw(self.title.as_deref(), &header, &rows)
    }

    fn tsv(&self) -> String {
        let names: Vec<String> = self.columns.iter().map(|column| column.name.to_owned()).collect();
        let rows = self.rows.iter().map(|row| row.iter().map(cell_text).collect::<Vec<_>>());
        std::iter::once(names).chain(rows).map(|row| row.join("\t") + "\n").collect()
    }

    /// One object for each row; empty cells, which are `null`, are left out.
    fn objects(&self) -> Value {
        let object = |row: &Vec<Value>| {
            let filled = self.columns.iter().zip(row).filter(|(_, value)| !value.is_null());
            Value::Object(filled.map(|(column, value)| (column.name.to_owned(), value.clone())).collect())
        };
        self.rows.iter().map(object).collect()
    }
}

fn cell_text(value: &Value) -> String {
    if value.is_null() { String::new() } else { scalar::python_str(value) }
}

/// A mapping as YAML on one line, keys sorted: `{a: 1, b: x}`.
pub(crate) fn flow_mapping(map: &Map<String, Value>) -> String {
    let mut pairs: Vec<_> = map.iter().collect();
    pairs.sort_by(|a, b| a.0.cmp(b.0));
    let pairs: Vec<String> =
        pairs.into_iter().map(|(key, value)| format!("{}: {}", flow_text(key), flow(value))).collect();
    format!("{{{}}}", pairs.join(", "))
}

fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) => flow_mapping(map),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::String(text) => flow_text(text),
        scalar => block_scalar(scalar),
    }
}

/// Inside of braces, some characters need quotes that need none outside.
fn flow_text(text: &str) -> String {
    let plain = block_scalar(&Value::from(text));
    let is_plain = plain == text;
    if is_plain && text.contains([',', '[', ']', '{', '}', '?']) {
        return format!("'{text}'");
    }
    plain
}

fn block_scalar(value: &Value) -> String {
    let text = to_yaml(value);
    let text = text.strip_suffix("...\n").unwrap_or(&text);
    text.trim_end_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn c_4_tags_on_one_line() {
        let tags =
            json!({"x": "a, b", "é": 1, "b": true, "l": ["p", {"q": null}], "t": "yes", "u": "it's, x: y"});
        let text = flow_mapping(tags.as_object().unwrap());
        assert_eq!(text, "{b: true, l: [p, {q: null}], t: 'yes', u: 'it''s, x: y', x: 'a, b', é: 1}");
    }
}
