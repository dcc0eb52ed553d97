//! The name under which a cluster is registered as a service (contract A.6.1).

/// Consul takes no longer names.
const LONGEST: usize = 230;

/// A scope as the name of a Consul service: lower case, separators become `-`, what a DNS name cannot hold becomes the
/// letter's decimal number.
///
/// ```
/// # use ptarmigan_types::service_name::of_scope;
/// assert_eq!(of_scope("My_Cluster"), "my-cluster");
/// assert_eq!(of_scope("a/b"), "au0047b");
/// ```
pub fn of_scope(scope: &str) -> String {
    let letter = |letter: char| match letter {
        '.' | '_' | ' ' => "-".to_owned(),
        'a'..='z' | '0'..='9' | '-' => letter.to_string(),
        other => format!("u{:04}", u32::from(other)),
    };
    scope.to_lowercase().chars().map(letter).collect::<String>().chars().take(LONGEST).collect()
}
