//! `GET /cluster`.

use ptarmigan_rest::{Reply, cluster_document};

use super::no_dcs;
use crate::{node::Node, publish};

/// A view that was read after the request came. Requests that wait for their turn share one: anybody may ask, and the
/// store is not theirs to flood.
pub(super) async fn get(node: &Node) -> Reply {
    let asked = ptarmigan_clock::now();
    let mut shared = node.shared_view.lock().await;
    if shared.as_ref().is_none_or(|(begun, _)| *begun < asked) {
        let begun = ptarmigan_clock::now();
        *shared = None;
        match node.dcs.view_fresh().await {
            Ok(view) => *shared = Some((begun, view)),
            Err(error) => return no_dcs(&error),
        }
    }
    let Some((_, view)) = shared.as_ref() else { return Reply::dcs_unreachable() };
    let (global, scope) =
        node.configuration.with(|settings| (publish::global(settings), settings.scope.clone()));
    Reply::json(200, cluster_document(&view.cluster, &global, &scope))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;
    use ptarmigan_dcs::memory::Fault;

    #[tokio::test]
    async fn cluster_is_read_anew_for_every_later_question() {
        let fixture = Fixture::new();
        let names = || async {
            let text = crate::testing::text(&get(&fixture.node).await).1;
            ["b", "c"].map(|name| text.contains(&format!(r#""name":"{name}""#)))
        };
        assert_eq!(names().await, [false, false]);
        fixture.join("b", None, true).await;
        assert_eq!(names().await, [true, false]);
        fixture.join("c", None, false).await;
        assert_eq!(names().await, [true, true]);
        fixture.store.set_fault(&fixture.node.name, Fault::Unreachable);
        assert_eq!(get(&fixture.node).await, Reply::dcs_unreachable());
    }
}
