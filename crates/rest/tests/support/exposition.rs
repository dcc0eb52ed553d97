//! A strict reader of the Prometheus text format 0.0.4: what it takes, every scraper takes. Families of gauges and
//! counters only, each in one piece, its `HELP` before its `TYPE` before its samples; no timestamps.

/// All that is said of one name.
#[derive(Clone, Debug, Default)]
pub struct Family {
    pub name: String,
    pub help: String,
    pub kind: String,
    /// Without their `# `.
    pub comments: Vec<String>,
    pub samples: Vec<Sample>,
}

/// Names and unescaped values, in the order in which they stand.
pub type Labels = Vec<(String, String)>;

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub labels: Labels,
    /// As printed; it is a number.
    pub value: String,
}

/// The families, in the order of the page.
pub fn parse(text: &str) -> Result<Vec<Family>, String> {
    let mut families: Vec<Family> = Vec::new();
    let Some(lines) = text.strip_suffix('\n') else { return Err("the last line does not end".into()) };
    for line in lines.split('\n') {
        let took = match line.strip_prefix("# ") {
            Some(comment) => take_comment(&mut families, comment),
            None => take_sample(&mut families, line),
        };
        took.map_err(|fault| format!("{fault}: {line:?}"))?;
    }
    match families.iter().find(|family| family.samples.is_empty()) {
        Some(empty) => Err(format!("{} has no sample", empty.name)),
        None => Ok(families),
    }
}

fn take_comment(families: &mut Vec<Family>, comment: &str) -> Result<(), &'static str> {
    let mut words = comment.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some("HELP"), Some(name), Some(help)) => {
            check(is_name(name, true), "no name of a metric")?;
            check(!help.is_empty() && unescape(help, false).is_some(), "no help")?;
            check(families.iter().all(|family| family.name != name), "the family was there before")?;
            families.push(Family { name: name.into(), help: help.into(), ..Family::default() });
        }
        (Some("TYPE"), Some(name), Some(kind)) => {
            let family =
                families.last_mut().filter(|family| family.name == name).ok_or("no HELP before it")?;
            check(family.kind.is_empty(), "a second TYPE")?;
            check(["gauge", "counter"].contains(&kind), "no type")?;
            family.kind = kind.into();
        }
        (Some("HELP" | "TYPE"), ..) => return Err("something is missing"),
        _ => families.last_mut().ok_or("a comment on nothing")?.comments.push(comment.into()),
    }
    Ok(())
}

fn take_sample(families: &mut [Family], line: &str) -> Result<(), &'static str> {
    let (name, rest) = line.split_once('{').ok_or("no labels")?;
    let family = families.last_mut().filter(|family| family.name == name).ok_or("of another family")?;
    check(!family.kind.is_empty(), "no TYPE before it")?;
    let (labels, value) = read_labels(rest)?;
    check(is_number(value), "no number")?;
    check(family.samples.iter().all(|sample| sample.labels != labels), "the same labels again")?;
    family.samples.push(Sample { labels, value: value.into() });
    Ok(())
}

/// What stands between `{` and `} `, and what stands behind it.
fn read_labels(mut rest: &str) -> Result<(Labels, &str), &'static str> {
    let mut labels = Labels::new();
    loop {
        let (label, quoted) = rest.split_once("=\"").ok_or("a label without a value")?;
        check(is_name(label, false), "no name of a label")?;
        check(labels.iter().all(|(known, _)| known != label), "a label twice")?;
        let end = closing_quote(quoted).ok_or("a value does not end")?;
        labels.push((label.into(), unescape(&quoted[..end], true).ok_or("an unknown escape")?));
        let behind = &quoted[end + 1..];
        match (behind.strip_prefix(','), behind.strip_prefix("} ")) {
            (Some(more), _) => rest = more,
            (None, Some(value)) => return Ok((labels, value)),
            (None, None) => return Err("neither another label nor the end"),
        }
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(index, letter)| {
        let closes = letter == '"' && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
        closes.then_some(index)
    })
}

/// `\\`, `\n` and, in label values, `\"`; nothing else is escaped.
fn unescape(text: &str, is_label: bool) -> Option<String> {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '\\' => match letters.next()? {
                '\\' => '\\',
                'n' => '\n',
                '"' if is_label => '"',
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain)
}

fn is_name(text: &str, may_have_colons: bool) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphabetic() || letter == '_';
    let is_good =
        |letter: char| is_letter(letter) || letter.is_ascii_digit() || may_have_colons && letter == ':';
    text.starts_with(is_letter) && text.chars().all(is_good)
}

/// Plain decimal notation, which all we print is.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    [whole, fraction].iter().all(|part| !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit()))
}

fn check(is_good: bool, fault: &'static str) -> Result<(), &'static str> {
    if is_good { Ok(()) } else { Err(fault) }
}
