//! JSON value to YAML text, laid out and quoted as PyYAML's `safe_dump(default_flow_style=False)` does.

use serde_json::{Map, Value};

use super::resolve;

/// How a document is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Whether keys are sorted.
    pub sort_keys: bool,
    /// Column, in characters, after which a text is folded at its next single space.
    pub width: usize,
    /// Whether characters beyond ASCII are written as they are.
    pub allow_unicode: bool,
}

impl Layout {
    /// What `patronictl` writes: sorted keys, lines of 200 characters.
    pub const CTL: Self = Self { sort_keys: true, width: 200, allow_unicode: true };
    /// What PyYAML does where nothing is asked for.
    pub const PYYAML: Self = Self { sort_keys: true, width: 80, allow_unicode: false };
}

/// Writes a document as `patronictl` does ([`Layout::CTL`]).
pub fn to_yaml(value: &Value) -> String {
    to_yaml_with(value, Layout::CTL)
}

/// Writes a document.
pub fn to_yaml_with(value: &Value, layout: Layout) -> String {
    let mut emitter = Emitter { layout, out: String::new(), column: 0, whitespace: true, indention: true };
    let open_ended = emitter.node(value, Place { indent: None, in_mapping: false, key: false });
    emitter.line_break();
    // A bare value at the top needs an end, for the reader could wait for more of it.
    if open_ended {
        emitter.out.push_str("...\n");
    }
    emitter.out
}

/// Where a node is written.
#[derive(Clone, Copy)]
struct Place {
    /// Indentation of the collection around, `None` at the top.
    indent: Option<usize>,
    /// Whether it is a mapping's value.
    in_mapping: bool,
    /// Whether it is a key on one line with its value.
    key: bool,
}

impl Place {
    /// Indentation of continued lines.
    fn deeper(self) -> usize {
        self.indent.map_or(2, |indent| indent + 2)
    }
}

struct Emitter {
    layout: Layout,
    out: String,
    column: usize,
    /// Whether the last thing written was white space.
    whitespace: bool,
    /// Whether only indentation stands on the line.
    indention: bool,
}

impl Emitter {
    fn write(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    fn line_break(&mut self) {
        self.out.push('\n');
        self.column = 0;
        self.whitespace = true;
        self.indention = true;
    }

    fn indent(&mut self, indent: usize) {
        if !self.indention || self.column > indent || (self.column == indent && !self.whitespace) {
            self.line_break();
        }
        if self.column < indent {
            self.whitespace = true;
            let blanks = " ".repeat(indent - self.column);
            self.write(&blanks);
        }
    }

    fn indicator(&mut self, text: &str, needs_space: bool, is_indention: bool) {
        if needs_space && !self.whitespace {
            self.write(" ");
        }
        self.whitespace = false;
        self.indention = self.indention && is_indention;
        self.write(text);
    }

    /// Writes a node; true where it was a plain scalar.
    fn node(&mut self, value: &Value, place: Place) -> bool {
        match value {
            Value::Array(items) if items.is_empty() => self.empty("[]"),
            Value::Object(map) if map.is_empty() => self.empty("{}"),
            Value::Array(items) => {
                self.list(items, place);
                false
            }
            Value::Object(map) => {
                self.mapping(map, place);
                false
            }
            scalar => self.scalar(scalar, place),
        }
    }

    fn empty(&mut self, brackets: &str) -> bool {
        self.indicator(brackets, true, false);
        false
    }

    fn list(&mut self, items: &[Value], place: Place) {
        // Under a key the dashes stand below the key itself.
        let indentless = place.in_mapping && !self.indention;
        let indent = match place.indent {
            None => 0,
            Some(indent) if indentless => indent,
            Some(indent) => indent + 2,
        };
        for item in items {
            self.indent(indent);
            self.indicator("-", true, true);
            self.node(item, Place { indent: Some(indent), in_mapping: false, key: false });
        }
    }

    fn mapping(&mut self, map: &Map<String, Value>, place: Place) {
        let indent = place.indent.map_or(0, |indent| indent + 2);
        let mut pairs: Vec<(&String, &Value)> = map.iter().collect();
        if self.layout.sort_keys {
            pairs.sort_by(|a, b| a.0.cmp(b.0));
        }
        for (key, value) in pairs {
            self.indent(indent);
            let inside = Place { indent: Some(indent), in_mapping: true, key: false };
            if is_simple_key(key) {
                self.text(key, Place { key: true, ..inside });
                self.indicator(":", false, false);
            } else {
                self.indicator("?", true, true);
                self.text(key, inside);
                self.indent(indent);
                self.indicator(":", true, true);
            }
            self.node(value, inside);
        }
    }

    fn scalar(&mut self, value: &Value, place: Place) -> bool {
        let plain = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(flag) => flag.to_string(),
            Value::Number(number) if number.is_f64() => {
                // `1e+16` would read as a text.
                let text = ptarmigan_types::pyjson::number(number);
                if text.contains('.') { text } else { text.replacen('e', ".0e", 1) }
            }
            Value::Number(number) => number.to_string(),
            Value::String(text) => return self.text(text, place),
            Value::Array(_) | Value::Object(_) => return false,
        };
        self.plain(&plain, place);
        true
    }

    /// Writes a text; true where it needed no quotes.
    fn text(&mut self, text: &str, place: Place) -> bool {
        let look = Look::at(text, self.layout.allow_unicode);
        if !reads_as_other(text) && look.plain && !(place.key && look.multiline) {
            self.plain(text, place);
            return true;
        }
        if look.single_quoted && !(place.key && look.multiline) {
            self.single_quoted(text, place);
        } else {
            self.double_quoted(text, place);
        }
        false
    }

    fn too_wide(&self, place: Place) -> bool {
        !place.key && self.column > self.layout.width
    }

    fn plain(&mut self, text: &str, place: Place) {
        if text.is_empty() {
            return;
        }
        if !self.whitespace {
            self.write(" ");
        }
        self.whitespace = false;
        self.indention = false;
        for (part, is_space) in runs(text) {
            if is_space && part.len() == 1 && self.too_wide(place) {
                self.indent(place.deeper());
                self.whitespace = false;
                self.indention = false;
            } else {
                self.write(part);
            }
        }
    }

    fn single_quoted(&mut self, text: &str, place: Place) {
        self.indicator("'", true, false);
        let mut at = 0;
        for line in text.split_inclusive(['\n', '\u{85}', '\u{2028}', '\u{2029}']) {
            let words = line.trim_end_matches(is_break);
            for (part, is_space) in runs(words) {
                let inner = at > 0 && at + part.len() < text.len();
                if is_space && part.len() == 1 && inner && self.too_wide(place) {
                    self.indent(place.deeper());
                } else {
                    self.write(&part.replace('\'', "''"));
                }
                at += part.len();
            }
            let breaks = &line[words.len()..];
            at += breaks.len();
            self.quoted_breaks(text, at - breaks.len(), breaks, place);
        }
        self.indicator("'", false, false);
    }

    /// A run of breaks is written one longer where it opens with a newline: a single one would be folded away.
    fn quoted_breaks(&mut self, text: &str, at: usize, breaks: &str, place: Place) {
        if breaks.is_empty() {
            return;
        }
        if !text[..at].ends_with(is_break) && breaks.starts_with('\n') {
            self.line_break();
        }
        if breaks == "\n" {
            self.line_break();
        } else {
            self.out.push_str(breaks);
            self.column = 0;
            self.whitespace = true;
            self.indention = true;
        }
        if !text[at + breaks.len()..].starts_with(is_break) {
            self.indent(place.deeper());
        }
    }

    fn double_quoted(&mut self, text: &str, place: Place) {
        self.indicator("\"", true, false);
        let chars: Vec<char> = text.chars().collect();
        let slice = |from: usize, to: usize| chars[from..to].iter().collect::<String>();
        let mut start = 0;
        for end in 0..=chars.len() {
            let next = chars.get(end).copied();
            if next.is_none_or(|c| !self.is_literal(c)) {
                self.write(&slice(start.min(end), end));
                start = end;
                if let Some(c) = next {
                    self.write(&escape(c));
                    start = end + 1;
                }
            }
            let inner = end > 0 && end + 1 < chars.len();
            // `start` is one beyond `end` after an escape.
            let is_wide = self.column + end > self.layout.width + start;
            if inner && (next == Some(' ') || start >= end) && !place.key && is_wide {
                self.write(&slice(start.min(end), end));
                self.write("\\");
                start = start.max(end);
                self.indent(place.deeper());
                self.whitespace = false;
                self.indention = false;
                if chars.get(start) == Some(&' ') {
                    self.write("\\");
                }
            }
        }
        self.indicator("\"", false, false);
    }

    fn is_literal(&self, c: char) -> bool {
        match c {
            '"' | '\\' | '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => false,
            ' '..='~' => true,
            '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' => self.layout.allow_unicode,
            _ => false,
        }
    }
}

fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Runs of blanks and runs of anything else.
fn runs(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let is_space = rest.starts_with(' ');
        let end = rest.find(|c: char| (c == ' ') != is_space).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        (!run.is_empty()).then_some((run, is_space))
    })
}

fn escape(c: char) -> String {
    let letter = match c {
        '\0' => '0',
        '\u{7}' => 'a',
        '\u{8}' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\u{b}' => 'v',
        '\u{c}' => 'f',
        '\r' => 'r',
        '\u{1b}' => 'e',
        '"' => '"',
        '\\' => '\\',
        '\u{85}' => 'N',
        '\u{a0}' => '_',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        _ => {
            let code = u32::from(c);
            return match code {
                0..=0xff => format!("\\x{code:02X}"),
                0x100..=0xffff => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            };
        }
    };
    format!("\\{letter}")
}

/// Whether a plain text would be read back as something else.
fn reads_as_other(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL" | "<<" | "=")
        || resolve::boolean(text).is_some()
        || resolve::is_number_or_date(text)
}

/// PyYAML counts the key's tag (`!!str`) into the 128 characters that a key may have.
fn is_simple_key(key: &str) -> bool {
    !key.is_empty() && key.chars().count() + "!!str".len() < 128 && !key.contains(is_break)
}

/// Which styles a text may be written in.
struct Look {
    multiline: bool,
    plain: bool,
    single_quoted: bool,
}

impl Look {
    fn at(text: &str, allow_unicode: bool) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let blank = |index: usize| {
            chars.get(index).is_none_or(|c| matches!(c, '\0' | ' ' | '\t' | '\r') || is_break(*c))
        };
        let mut indicators = text.starts_with("---") || text.starts_with("...");
        let mut special = false;
        let (mut break_then_space, mut space_then_break) = (false, false);
        for (index, c) in chars.iter().copied().enumerate() {
            let before = index.checked_sub(1).and_then(|index| chars.get(index)).copied();
            indicators |= match (index, c) {
                (
                    0,
                    '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@'
                    | '`',
                ) => true,
                (0, '?' | ':' | '-') | (_, ':') => blank(index + 1),
                (_, '#') => blank(index - 1),
                _ => false,
            };
            special |= match c {
                '\n' | ' '..='~' => false,
                '\u{feff}' | '\u{10ffff}' => true,
                '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => !allow_unicode,
                _ => true,
            };
            break_then_space |= c == ' ' && before.is_some_and(is_break);
            space_then_break |= is_break(c) && before == Some(' ');
        }
        let edge = |c: Option<&char>| c.is_some_and(|c| *c == ' ' || is_break(*c));
        let multiline = text.contains(is_break);
        let single_quoted = !break_then_space && !space_then_break && !special;
        let plain = single_quoted && !multiline && !indicators && !edge(chars.first()) && !edge(chars.last());
        Self { multiline, plain, single_quoted }
    }
}
