//! Deleting what failed attempts have left behind.
//!
//! A file may go when no version of the table refers to it *and* nobody can come to refer to it any more. The
//! second is known of files whose name carries our topic's id and an epoch below ours: their writer is fenced.
//! Files of our own epoch wait for the next writer's sweep, those of a topic that had this name before are not ours
//! to judge. Listing may miss files; then they wait too.

use crate::catalog::WriterEpoch;
use crate::manifests;
use crate::table::Table;
use iceberg::Result;
use uuid::Uuid;
use varve_cluster::TopicId;

impl Table {
    /// Deletes the orphans of earlier writers and says how many. Worth doing once after opening; it reads all
    /// manifests of the table and lists its folder.
    pub async fn sweep(&self) -> Result<usize> {
        let location = self.base.metadata.location();
        let mut candidates = Vec::new();
        for folder in ["data", "metadata"] {
            for name in self.bucket.names_in(&format!("{location}/{folder}")).await? {
                if epoch_in(&name, self.topic.id).is_some_and(|epoch| epoch < self.epoch) {
                    candidates.push(format!("{location}/{folder}/{name}"));
                }
            }
        }
        let orphans = manifests::unreferenced(&self.bucket.file_io(), &self.base, candidates).await?;
        let swept = orphans.len();
        self.bucket.delete_all(orphans).await;
        Ok(swept)
    }
}

/// What every file of ours has in its name: the epoch it was written under, the topic, and that no other has it.
pub(crate) fn mark(epoch: WriterEpoch, topic_id: TopicId) -> String {
    format!(
        "e{epoch}-{}-{}",
        topic_id.uuid().simple(),
        Uuid::new_v4().simple()
    )
}

/// Reads the epoch back from a name with the mark of this topic.
fn epoch_in(name: &str, topic_id: TopicId) -> Option<WriterEpoch> {
    let (front, _) = name.split_once(&format!("-{}-", topic_id.uuid().simple()))?;
    let epoch = front.rsplit('-').next()?.strip_prefix('e')?;
    epoch.parse().ok().map(WriterEpoch::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_which_tenure_wrote_them() {
        let (ours, other) = (TopicId::new(Uuid::from_u128(7)), TopicId::new(Uuid::from_u128(8)));
        let manifest = format!("{}-m0.avro", mark(WriterEpoch::new(12), ours));
        let data = format!("e2-p0-4-o0-9-{}.parquet", mark(WriterEpoch::new(7), ours));

        assert_eq!(epoch_in(&manifest, ours), Some(WriterEpoch::new(12)));
        assert_eq!(epoch_in(&data, ours), Some(WriterEpoch::new(7)));
        assert_eq!(epoch_in(&data, other), None);
        assert_eq!(epoch_in("somebody-elses.parquet", ours), None);
    }
}
