//! Tables drawn with `+`, `-` and `|` (contract C.4, "Pretty rendering").

use std::iter::once;

use unicode_width::UnicodeWidthStr as _;

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Draws a table; a line ends each row, the last one too. `title` is laid over the top rule.
///
/// Where any cell holds several lines there are rules between all rows.
pub(crate) fn draw(title: Option<&str>, header: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(index, (name, _))| {
            let cells = rows.iter().filter_map(|row| row.get(index)).flat_map(|cell| cell.split('\n'));
            once(*name).chain(cells).map(|line| line.width()).max().unwrap_or_default()
        })
        .collect();
    let aligns: Vec<Align> = header.iter().map(|(_, align)| *align).collect();
    let rule = rule(&widths);
    let names: Vec<String> = header.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut lines = vec![title.map_or_else(|| rule.clone(), |title| with_title(&rule, title))];
    lines.extend(draw_row(&names, &widths, &aligns));
    lines.push(rule.clone());
    let has_long_cells = rows.iter().flatten().any(|cell| cell.contains('\n'));
    for (index, row) in rows.iter().enumerate() {
        if has_long_cells && index > 0 {
            lines.push(rule.clone());
        }
        lines.extend(draw_row(row, &widths, &aligns));
    }
    lines.push(rule);
    lines.push(String::new());
    lines.join("\n")
}

fn rule(widths: &[usize]) -> String {
    let parts: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    format!("+{}+", parts.join("+"))
}

/// The title starts after the first `+` and never covers the last one.
fn with_title(rule: &str, title: &str) -> String {
    let room = rule.len().saturating_sub(2);
    let mut shown = String::new();
    for c in title.chars() {
        let longer = format!("{shown}{c}");
        if longer.width() > room {
            break;
        }
        shown = longer;
    }
    format!("+{shown}{}", &rule[1 + shown.width()..])
}

fn draw_row(row: &[String], widths: &[usize], aligns: &[Align]) -> Vec<String> {
    let cells: Vec<Vec<&str>> = row.iter().map(|cell| cell.split('\n').collect()).collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(1);
    (0..height)
        .map(|line| {
            let parts: Vec<String> = cells
                .iter()
                .zip(widths)
                .zip(aligns)
                .map(|((cell, width), align)| {
                    pad(cell.get(line).copied().unwrap_or_default(), *width, *align)
                })
                .collect();
            format!("|{}|", parts.join("|"))
        })
        .collect()
}

fn pad(text: &str, width: usize, align: Align) -> String {
    let blanks = " ".repeat(width.saturating_sub(text.width()));
    match align {
        Align::Left => format!(" {text}{blanks} "),
        Align::Right => format!(" {blanks}{text} "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_4_a_title_longer_than_the_table_is_cut() {
        let drawn = draw(Some(" Cluster: long "), &[("A", Align::Left), ("B", Align::Right)], &[]);
        assert_eq!(drawn, "+ Clust+\n| A | B |\n+---+---+\n+---+---+\n".replacen(" Clust", " Cluste", 1));
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let rows = [vec!["日本".to_owned()], vec!["é".to_owned()]];
        let drawn = draw(Some(" 日 "), &[("A", Align::Left)], &rows);
        assert_eq!(drawn, "+ 日 --+\n| A    |\n+------+\n| 日本 |\n| é    |\n+------+\n");
    }

    #[test]
    fn c_4_rules_between_all_rows_where_a_cell_has_lines() {
        let rows = [vec!["a\nb".to_owned(), "1".to_owned()], vec!["c".to_owned(), "22".to_owned()]];
        let drawn = draw(None, &[("A", Align::Left), ("N", Align::Right)], &rows);
        let expected = "+---+----+\n| A |  N |\n+---+----+\n| a |  1 |\n| b |    |\n+---+----+\n| c | 22 |\n+---+----+\n";
        assert_eq!(drawn, expected);
    }
}
