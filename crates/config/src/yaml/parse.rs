//! YAML text to JSON value.

use std::{borrow::Cow, collections::BTreeMap, rc::Rc};

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag, options};
use serde_json::{Map, Value};

use super::{
    Error,
    resolve::{self, Scalar},
};
use crate::Warning;

/// Nesting beyond this is refused.
const DEPTH_MAX: usize = 200;
/// Values beyond this, aliases expanded, are refused: a document of nested aliases would never end.
const VALUES_MAX: usize = 1_000_000;

/// A loaded document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its value; `null` for an empty one.
    pub value: Value,
    /// Keys given twice: the last one counts, as with PyYAML.
    pub warnings: Vec<Warning>,
}

/// Reads one document.
///
/// # Errors
/// Whatever PyYAML's `safe_load` refuses: bad structure, tabs between tokens, a second document, unknown tags,
/// unknown or repeated anchors, lists or mappings as keys (an unquoted `{{ placeholder }}` among them).
pub fn parse(text: &str) -> Result<Document, Error> {
    check_characters(text)?;
    let mut text = Cow::Borrowed(text);
    loop {
        // PyYAML takes `"x"#...` for a text and a comment, our parser wants a blank before the `#`.
        match compose(&text) {
            Err(Failure::CommentTooClose(at)) => text.to_mut().insert(at, ' '),
            Err(Failure::Error(error)) => return Err(error),
            Ok(root) => return build(root.as_ref()),
        }
    }
}

enum Failure {
    /// A `#` that follows a token, at this byte.
    CommentTooClose(usize),
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

fn build(root: Option<&Node>) -> Result<Document, Error> {
    let mut builder = Builder { warnings: Vec::new(), values: 0 };
    let value = match root {
        Some(node) => builder.value(node, &mut Vec::new())?,
        None => Value::Null,
    };
    Ok(Document { value, warnings: builder.warnings })
}

fn compose(text: &str) -> Result<Option<Node>, Failure> {
    let options = options! { emit_anchor_events: true };
    let mut composer = Composer::default();
    let mut documents = 0_usize;
    let mut covered = 0;
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| scan_failure(text, &error))?;
        if matches!(event, Event::DocumentStart(..)) {
            documents += 1;
            if documents > 1 {
                return Err(
                    error_at(&span.start, "a second document starts here: only one is expected").into()
                );
            }
        }
        check_tabs(text, &event, &span, &mut covered)?;
        composer.take(event, &span)?;
    }
    check_gap(text, covered, text.len())?;
    Ok(composer.root)
}

fn scan_failure(text: &str, error: &ScanError) -> Failure {
    if let Some(at) = error.marker().byte_offset()
        && text.get(at..).is_some_and(|rest| rest.starts_with('#'))
        && text.get(..at).is_some_and(|before| before.ends_with(|c: char| !c.is_whitespace()))
        && error.info().starts_with("comments must be separated")
    {
        return Failure::CommentTooClose(at);
    }
    let mut error = error_at(error.marker(), error.info());
    if error.reason.ends_with("unknown anchor") {
        error.reason =
            "'*' begins a reference to an anchor, and none has this name: put the value in quotes".to_owned();
    }
    if error.reason == "simple key expected ':'" {
        error.reason =
            "this line is no 'key: value' and continues nothing: a ':' or the indentation is wrong"
                .to_owned();
    }
    error.into()
}

/// Reads one document that must be a mapping.
///
/// # Errors
/// As [`parse`], and where the document is anything but a mapping.
pub fn parse_mapping(text: &str) -> Result<(Map<String, Value>, Vec<Warning>), Error> {
    let document = parse(text)?;
    let found = match document.value {
        Value::Object(map) => return Ok((map, document.warnings)),
        Value::Null => "is empty",
        Value::Array(_) => "is a list",
        _ => "is a single value",
    };
    Err(Error {
        line: 1,
        column: 1,
        reason: format!("the document {found}, not a mapping of keys to values"),
    })
}

fn error_at(mark: &Marker, reason: impl Into<String>) -> Error {
    Error { line: mark.line(), column: mark.col() + 1, reason: reason.into() }
}

fn error_at_byte(text: &str, at: usize, reason: &str) -> Error {
    let before = &text[..at];
    let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
    Error { line: before.matches('\n').count() + 1, column, reason: reason.to_owned() }
}

/// PyYAML reads printable characters only.
fn check_characters(text: &str) -> Result<(), Error> {
    let printable = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    match text.char_indices().find(|(_, c)| !printable(*c)) {
        Some((at, c)) => {
            let reason = format!("the character {} is not allowed", c.escape_unicode());
            Err(error_at_byte(text, at, &reason))
        }
        None => Ok(()),
    }
}

/// PyYAML wants spaces, not tabs, everywhere but inside quotes, block scalars and comments.
fn check_tabs(text: &str, event: &Event<'_>, span: &Span, covered: &mut usize) -> Result<(), Error> {
    let Some(range) = span.byte_range() else { return Ok(()) };
    let Event::Scalar(_, style, ..) = event else { return Ok(()) };
    check_gap(text, *covered, range.start)?;
    if *style == ScalarStyle::Plain {
        check_gap(text, range.start, range.end)?;
    }
    *covered = range.end.max(*covered);
    Ok(())
}

/// Looks for a tab between two tokens; what follows a `#` there is a comment.
fn check_gap(text: &str, from: usize, to: usize) -> Result<(), Error> {
    let Some(gap) = text.get(from..to) else { return Ok(()) };
    let mut start = from;
    for line in gap.split_inclusive('\n') {
        let code = line.split('#').next().unwrap_or(line);
        if let Some(tab) = code.find('\t') {
            return Err(error_at_byte(
                text,
                start + tab,
                "a tab stands here: indent and separate with spaces",
            ));
        }
        start += line.len();
    }
    Ok(())
}

/// Where a node stands.
#[derive(Clone, Copy, Debug)]
struct At {
    line: usize,
    column: usize,
}

impl At {
    fn error(self, reason: impl Into<String>) -> Error {
        Error { line: self.line, column: self.column, reason: reason.into() }
    }
}

#[derive(Clone, Debug)]
struct Node {
    at: At,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Scalar { text: String, scalar: Scalar },
    List(Rc<Vec<Node>>),
    Mapping(Rc<Vec<(Node, Node)>>),
}

/// A list or mapping that is not closed yet.
struct Open {
    at: At,
    anchor: usize,
    mapping: bool,
    children: Vec<Node>,
}

/// Events to nodes, aliases resolved.
#[derive(Default)]
struct Composer {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    names: Vec<String>,
}

impl Composer {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Error> {
        let at = At { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = scalar(&text, style, tag.as_deref()).map_err(|reason| at.error(reason))?;
                self.close(Node { at, kind: Kind::Scalar { text: text.into_owned(), scalar } }, anchor);
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_collection_tag(tag.as_deref(), "seq").map_err(|reason| at.error(reason))?;
                self.start(Open { at, anchor, mapping: false, children: Vec::new() })?;
            }
            Event::MappingStart(_, anchor, tag) => {
                check_collection_tag(tag.as_deref(), "map").map_err(|reason| at.error(reason))?;
                self.start(Open { at, anchor, mapping: true, children: Vec::new() })?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(node) => {
                    let node = Node { at, kind: node.kind.clone() };
                    self.close(node, 0);
                }
                None => return Err(at.error("the alias stands inside the value that it names")),
            },
            Event::Anchor(_, name) => {
                if self.names.iter().any(|known| *known == name) {
                    return Err(at.error(format!("the anchor '{name}' is defined twice")));
                }
                self.names.push(name.into_owned());
            }
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, open: Open) -> Result<(), Error> {
        if self.open.len() >= DEPTH_MAX {
            return Err(open.at.error(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        self.open.push(open);
        Ok(())
    }

    fn end(&mut self) {
        let Some(open) = self.open.pop() else { return };
        let kind = if open.mapping {
            let mut pairs = Vec::new();
            let mut children = open.children.into_iter();
            while let (Some(key), Some(value)) = (children.next(), children.next()) {
                pairs.push((key, value));
            }
            Kind::Mapping(Rc::new(pairs))
        } else {
            Kind::List(Rc::new(open.children))
        };
        self.close(Node { at: open.at, kind }, open.anchor);
    }

    fn close(&mut self, node: Node, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            Some(open) => open.children.push(node),
            None => self.root = Some(node),
        }
    }
}

fn check_collection_tag(tag: Option<&Tag>, expected: &str) -> Result<(), String> {
    match tag {
        None => Ok(()),
        Some(tag) if tag.core_suffix() == Some(expected) || tag.original() == "!" => Ok(()),
        Some(tag) => Err(format!("the tag '{}' has no meaning here", tag.original())),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Scalar, String> {
    let as_text = || Ok(Scalar::Value(Value::String(text.to_owned())));
    let Some(tag) = tag else {
        return if style == ScalarStyle::Plain { resolve::plain(text) } else { as_text() };
    };
    let wrong = || Err(format!("'{text}' is not what the tag '{}' says", tag.original()));
    match tag.core_suffix() {
        // A bare `!` changes nothing to PyYAML.
        _ if tag.original() == "!" && style == ScalarStyle::Plain => resolve::plain(text),
        _ if tag.original() == "!" => as_text(),
        Some("str") => as_text(),
        Some("null") => Ok(Scalar::Value(Value::Null)),
        Some("bool") => match resolve::boolean(text) {
            Some(value) => Ok(Scalar::Value(Value::Bool(value))),
            None => wrong(),
        },
        Some("int") if resolve::is_int(text) => resolve::int(text).map(Scalar::Value),
        Some("float") if resolve::is_float(text) => Ok(Scalar::Value(resolve::float(text))),
        Some("float") if resolve::is_int(text) => match text.replace('_', "").parse::<f64>() {
            Ok(value) => Ok(Scalar::Value(Value::from(value))),
            Err(_) => wrong(),
        },
        Some("int" | "float") => wrong(),
        _ if tag.suffix_in_namespace("tag:yaml.org,2002:").as_deref() == Some("timestamp") => as_text(),
        _ => Err(format!("the tag '{}' has no meaning here", tag.original())),
    }
}

/// Nodes to values: merge keys, duplicate keys, keys as texts.
struct Builder {
    warnings: Vec<Warning>,
    values: usize,
}

impl Builder {
    fn value(&mut self, node: &Node, path: &mut Vec<String>) -> Result<Value, Error> {
        self.values += 1;
        if self.values > VALUES_MAX || path.len() > DEPTH_MAX {
            return Err(node.at.error("the aliases of this document expand to more than can be read"));
        }
        match &node.kind {
            Kind::Scalar { scalar: Scalar::Value(value), .. } => Ok(value.clone()),
            Kind::Scalar { text, .. } => {
                Err(node.at.error(format!("a plain '{text}' has no meaning as a value: put it in quotes")))
            }
            Kind::List(items) => {
                let mut list = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    path.push(format!("[{index}]"));
                    list.push(self.value(item, path)?);
                    path.pop();
                }
                Ok(Value::Array(list))
            }
            Kind::Mapping(pairs) => self.mapping(pairs, path),
        }
    }

    fn mapping(&mut self, pairs: &[(Node, Node)], path: &mut Vec<String>) -> Result<Value, Error> {
        let mut map = Map::new();
        for (key, value) in merged(pairs, 0)? {
            self.values += 1;
            if self.values > VALUES_MAX {
                return Err(key.at.error("the aliases of this document expand to more than can be read"));
            }
            path.push(key_text(&key)?);
            let built = self.value(&value, path)?;
            let name = path.pop().unwrap_or_default();
            map.insert(name, built);
        }
        let mut lines: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (key, _) in pairs.iter().filter(|(key, _)| !is_merge(key)) {
            lines.entry(key_text(key)?).or_default().push(key.at.line);
        }
        for (name, lines) in lines.into_iter().filter(|(_, lines)| lines.len() > 1) {
            let all: Vec<String> = lines.iter().map(usize::to_string).collect();
            let reason = format!("is given more than once, on lines {}: the last one counts", all.join(", "));
            self.warnings.push(Warning::new(dotted(path, &name), reason));
        }
        Ok(Value::Object(map))
    }
}

fn dotted(path: &[String], name: &str) -> String {
    let mut text = String::new();
    for part in path.iter().map(String::as_str).chain([name]) {
        if !text.is_empty() && !part.starts_with('[') {
            text.push('.');
        }
        text.push_str(part);
    }
    text
}

fn is_merge(key: &Node) -> bool {
    matches!(&key.kind, Kind::Scalar { scalar: Scalar::Merge, .. })
}

/// A mapping's pairs with those of its merge keys before its own, so that its own win.
fn merged(pairs: &[(Node, Node)], depth: usize) -> Result<Vec<(Node, Node)>, Error> {
    let mut result = Vec::new();
    for (key, value) in pairs.iter().filter(|(key, _)| is_merge(key)) {
        if depth > DEPTH_MAX {
            return Err(key.at.error("merge keys are nested too deep"));
        }
        match &value.kind {
            Kind::Mapping(inner) => result.extend(merged(inner, depth + 1)?),
            // The first of several mappings wins: it comes last.
            Kind::List(items) => {
                for item in items.iter().rev() {
                    let Kind::Mapping(inner) = &item.kind else {
                        return Err(item.at.error("'<<' merges mappings, and this is none"));
                    };
                    result.extend(merged(inner, depth + 1)?);
                }
            }
            Kind::Scalar { .. } => return Err(value.at.error("'<<' merges a mapping or a list of mappings")),
        }
        if result.len() > VALUES_MAX {
            return Err(key.at.error("the merge keys of this document expand to more than can be read"));
        }
    }
    result.extend(pairs.iter().filter(|(key, _)| !is_merge(key)).cloned());
    Ok(result)
}

/// A key as JSON writes it: `on:` is `true`, `5432:` is `5432`.
fn key_text(key: &Node) -> Result<String, Error> {
    match &key.kind {
        Kind::Scalar { scalar: Scalar::Value(Value::String(text)), .. } => Ok(text.clone()),
        Kind::Scalar { scalar: Scalar::Value(value), .. } => Ok(value.to_string()),
        Kind::Scalar { text, .. } => Ok(text.clone()),
        Kind::List(_) | Kind::Mapping(_) => Err(key.at.error(
            "a list or mapping cannot be a key (is a placeholder in braces not filled in, or not in quotes?)",
        )),
    }
}
