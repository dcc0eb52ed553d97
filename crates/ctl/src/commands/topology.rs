//! `topology`: the members as a tree of who replicates from whom (contract C.4).

use anyhow::Result;

use super::list::Listing;
use crate::{cli::Topology, members::Style, session::Context};

pub(super) async fn run(context: &Context, options: Topology) -> Result<()> {
    let listing = Listing {
        clusters: options.clusters,
        group: options.group,
        extended: false,
        timestamp: false,
        style: Style::Topology,
        watch: options.watch,
    };
    listing.run(context).await
}
