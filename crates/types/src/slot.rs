//! Replication slot names (contract B.23.1).

/// The slot of a member: lower case, `-` and `.` become `_`, anything else outside `[a-z0-9_]` becomes `u`
/// and its code point in at least four digits; at most 63 characters.
pub fn name_of_member(member: &str) -> String {
    let mut slot = String::with_capacity(member.len());
    for c in member.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' => slot.push(c),
            '-' | '.' => slot.push('_'),
            other => slot.push_str(&format!("u{:04}", u32::from(other))),
        }
    }
    slot.truncate(63); // ASCII by now, so bytes are characters
    slot
}
