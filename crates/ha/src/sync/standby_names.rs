//! `synchronous_standby_names`: reading and writing PostgreSQL's notation (contract B.21, "ssn").

use ptarmigan_types::MemberName;

use super::{Mode, NameSet};

/// Stands in `synchronous_standby_names` where strict mode has nobody to name: commits wait. No member may have this name.
pub const PLACEHOLDER: &str = "__patroni_strict_sync_replica_placeholder__";

/// Which of the named standbys a commit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody is named.
    Off,
    /// The first ones that are connected.
    Priority,
    /// Any of them.
    Quorum,
}

/// What `synchronous_standby_names` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyNames {
    /// How those are chosen that are waited for.
    pub kind: Kind,
    /// How many are waited for.
    pub count: u32,
    /// Who is named; the placeholder alone counts as nobody.
    pub members: NameSet,
    /// `*` is among them.
    pub has_star: bool,
}

impl StandbyNames {
    /// Nobody.
    pub fn off() -> Self {
        Self { kind: Kind::Off, count: 0, members: NameSet::default(), has_star: false }
    }

    /// What PostgreSQL has in force, as the rules count it: what cannot be read names nobody, and `*` names nobody who
    /// could be counted upon.
    pub fn in_force(text: &str) -> Self {
        let mut names = parse(text).unwrap_or_else(|_| Self::off());
        if names.has_star {
            names.members = std::iter::once(MemberName::from(PLACEHOLDER)).collect();
        }
        names
    }
}

/// Not a value of `synchronous_standby_names`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot read synchronous_standby_names {:?}", self.0)
    }
}

impl std::error::Error for Error {}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Number(String),
    Quoted(String),
    Star,
    Open,
    Close,
    Comma,
}

/// Reads PostgreSQL's notation. As the contract's vectors have it: a bare number names nobody, a bare `first` does.
///
/// # Errors
/// It is not that notation.
pub fn parse(text: &str) -> Result<StandbyNames, Error> {
    let error = || Error(text.to_owned());
    let tokens = tokens(text).ok_or_else(error)?;
    if tokens.is_empty() {
        return Ok(StandbyNames::off());
    }
    let (kind, count, list) = head(&tokens);
    let count = count.parse().map_err(|_| error())?;
    let mut names = StandbyNames { kind, count, members: NameSet::default(), has_star: false };
    for (index, token) in list.iter().enumerate() {
        match token {
            Token::Comma if index % 2 == 1 => {}
            Token::Word(name) | Token::Quoted(name) if index % 2 == 0 => {
                names.members.insert(name.as_str().into());
            }
            Token::Star if index % 2 == 0 => {
                names.has_star = true;
                names.members.insert("*".into());
            }
            _ => return Err(error()),
        }
    }
    if list.len() % 2 == 0 {
        return Err(error());
    }
    let placeholder = MemberName::from(PLACEHOLDER);
    if names.members.len() == 1 && names.members.contains(&placeholder) {
        names.members = NameSet::default();
    }
    Ok(names)
}

/// `ANY n (...)`, `FIRST n (...)`, `n (...)`, or the list alone.
fn head(tokens: &[Token]) -> (Kind, &str, &[Token]) {
    let word = |token: &Token, is: &str| matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(is));
    match tokens {
        [any, Token::Number(count), Token::Open, list @ .., Token::Close] if word(any, "any") => {
            (Kind::Quorum, count, list)
        }
        [first, Token::Number(count), Token::Open, list @ .., Token::Close] if word(first, "first") => {
            (Kind::Priority, count, list)
        }
        [Token::Number(count), Token::Open, list @ .., Token::Close] => (Kind::Priority, count, list),
        list => (Kind::Priority, "1", list),
    }
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
        let length = |belongs: fn(char) -> bool| rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        let (token, taken) = match first {
            ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}' => (None, 1),
            '(' => (Some(Token::Open), 1),
            ')' => (Some(Token::Close), 1),
            ',' => (Some(Token::Comma), 1),
            '*' => (Some(Token::Star), 1),
            '"' => {
                let (name, taken) = quoted(rest)?;
                (Some(Token::Quoted(name)), taken)
            }
            '0'..='9' => {
                let taken = length(|c| c.is_ascii_digit());
                (Some(Token::Number(rest[..taken].to_owned())), taken)
            }
            c if c.is_ascii_alphabetic() || c == '_' => {
                let taken = rest.find(|c| !word(c)).unwrap_or(rest.len());
                (Some(Token::Word(rest[..taken].to_owned())), taken)
            }
            _ => return None,
        };
        tokens.extend(token);
        rest = &rest[taken..];
    }
    Some(tokens)
}

/// A quoted name, `""` inside it for a quote, and how many bytes it takes.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = characters.next() {
        if c != '"' {
            name.push(c);
        } else if characters.next_if(|(_, next)| *next == '"').is_some() {
            name.push('"');
        } else {
            return Some((name, at + 1));
        }
    }
    None
}

/// What a server's version can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Several synchronous standbys (9.6 and newer).
    pub several: bool,
    /// `ANY` (10 and newer).
    pub any: bool,
}

impl Abilities {
    /// Of every version that is supported.
    pub const ALL: Self = Self { several: true, any: true };
}

/// The text that asks for this; empty: the parameter is removed. `count`: how many are waited for, `None` for all of them;
/// with at least one wanted and nobody to name it is the placeholder, and commits wait.
pub fn print(mode: Mode, names: &NameSet, count: Option<u32>, abilities: Abilities) -> String {
    let star = names.contains(&"*".into());
    let nobody = star || (names.is_empty() && count.is_some_and(|count| count > 0));
    let listed: Vec<String> = if nobody {
        vec![PLACEHOLDER.to_owned()]
    } else {
        names.sorted().into_iter().map(|name| quote(name.as_str())).collect()
    };
    let Some(first) = listed.first() else { return String::new() };
    if !abilities.several {
        return first.clone();
    }
    let quorum = mode == Mode::Quorum;
    if !quorum && listed.len() == 1 {
        return first.clone();
    }
    let count = count.unwrap_or_else(|| u32::try_from(listed.len()).unwrap_or(u32::MAX));
    let any = if quorum && abilities.any { "ANY " } else { "" };
    format!("{any}{count} ({})", listed.join(","))
}

fn quote(name: &str) -> String {
    let plain = name.chars().enumerate().all(|(index, c)| {
        c == '_' || c.is_ascii_alphabetic() || (index > 0 && (c.is_ascii_digit() || c == '$'))
    });
    let keyword = name.eq_ignore_ascii_case("first") || name.eq_ignore_ascii_case("any");
    if plain && !keyword && !name.is_empty() {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}
