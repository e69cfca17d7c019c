//! The sink's `Catalog` over the metadata quorum: the pointer moves by a command in the one total order, fenced by
//! the writer's epoch.

use crate::metadata::{MetadataQuorum, ProposeError};
use async_trait::async_trait;
use std::sync::Arc;
use varve_cluster::TopicId;
use varve_cluster::controller::command::CommitTable;
use varve_cluster::controller::{Command, Outcome, Rejected};
use varve_lakehouse_sink::catalog::{Catalog, LoadError, Pointer, SwapError, TableVersion, WriterEpoch};

/// See the module's first line.
pub(super) struct QuorumCatalog(Arc<dyn MetadataQuorum>);

impl QuorumCatalog {
    pub(super) fn new(metadata: Arc<dyn MetadataQuorum>) -> Self {
        Self(metadata)
    }
}

#[async_trait]
impl Catalog for QuorumCatalog {
    async fn load(&self, topic_id: TopicId) -> Result<Option<Pointer>, LoadError> {
        let view = self.0.view();
        Ok(view.tables.get(&topic_id).and_then(|table| {
            let metadata_location = table.metadata_location.clone()?;
            Some(Pointer {
                version: TableVersion::new(table.version),
                metadata_location,
            })
        }))
    }

    async fn commit_if_unchanged(
        &self,
        topic_id: TopicId,
        epoch: WriterEpoch,
        expected: TableVersion,
        metadata_location: &str,
    ) -> Result<TableVersion, SwapError> {
        let commit = CommitTable {
            topic_id,
            epoch: epoch.value(),
            expected_version: expected.value(),
            metadata_location: metadata_location.to_owned(),
        };
        match self.0.propose(Command::CommitTable(commit)).await {
            Ok(Outcome::TableCommitted { version }) => Ok(TableVersion::new(version)),
            Ok(other) => Err(SwapError::Unknown(format!("answered with {other:?}").into())),
            Err(ProposeError::Rejected(Rejected::TableMoved { .. })) => Err(SwapError::Conflict),
            // The topic was deleted, or somebody else writes: this tenure is over either way.
            Err(ProposeError::Rejected(Rejected::TableFenced { .. } | Rejected::UnknownTable(_))) => {
                Err(SwapError::Fenced)
            }
            Err(error @ (ProposeError::Rejected(_) | ProposeError::NotApplied(_))) => {
                Err(SwapError::NotApplied(error.into()))
            }
            Err(error @ ProposeError::Unknown(_)) => Err(SwapError::Unknown(error.into())),
        }
    }
}
