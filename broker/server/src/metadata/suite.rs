//! The one behaviour every metadata quorum has, and what only the one on disk can show.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use varve_cluster::controller::command::{CreateTopic, RegisterBroker};
use varve_cluster::controller::{Command, Outcome, Rejected, State};
use varve_cluster::{BrokerId, TopicId, TopicName};
use varve_log::{Crash, Disk, FsDisk, SimDisk};

use super::*;

const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qg";

fn register(incarnation: u128) -> Command {
    Command::RegisterBroker(RegisterBroker {
        broker: BrokerId::new(1),
        incarnation: Uuid::from_u128(incarnation),
        listeners: vec![],
        rack: None,
        clean_shutdown_of: None,
        directories: vec![],
    })
}

fn create(name: &str) -> Command {
    Command::CreateTopic(CreateTopic {
        name: TopicName::parse(name).unwrap(),
        topic_id: id_of(name),
        assignments: vec![vec![BrokerId::new(1)]],
        configs: varve_cluster::topic_config::Overrides::new(),
    })
}

/// An id that depends on the name alone.
fn id_of(name: &str) -> TopicId {
    let mut id = [0; 16];
    for (at, byte) in name.bytes().enumerate() {
        id[at % 16] ^= byte.wrapping_add(u8::try_from(at).unwrap());
    }
    TopicId::new(Uuid::from_bytes(id))
}

async fn start(quorum: &dyn MetadataQuorum) {
    let Ok(Outcome::Registered(epoch)) = quorum.propose(register(1)).await else {
        panic!("not registered")
    };
    quorum
        .propose(Command::UnfenceBroker {
            broker: BrokerId::new(1),
            epoch,
        })
        .await
        .unwrap();
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn on_both(test: impl AsyncFn(&dyn MetadataQuorum)) {
    let real = tempfile::tempdir().unwrap();
    let single = SingleNode::open(Arc::new(FsDisk), real.path(), CLUSTER).unwrap();
    block_on(test(&single));
    single.close();
    let late = Faults {
        delay_max: Duration::from_micros(200),
        ..Faults::default()
    };
    block_on(test(&Simulated::new(CLUSTER, 1, late)));
}

#[test]
fn what_was_answered_is_in_the_view() {
    on_both(async |quorum| {
        start(quorum).await;
        let mut changes = quorum.subscribe();
        changes.mark_unchanged();
        assert_eq!(quorum.propose(create("orders")).await.unwrap(), Outcome::Done);
        assert!(quorum.view().topic_named("orders").is_some());
        assert!(changes.has_changed().unwrap());
        assert_eq!(changes.borrow_and_update().applied, quorum.view().applied);
    });
}

#[test]
fn a_rejected_command_changes_nothing() {
    on_both(async |quorum| {
        start(quorum).await;
        quorum.propose(create("orders")).await.unwrap();
        let before = quorum.view();
        let again = quorum.propose(create("orders")).await;
        assert!(matches!(
            again,
            Err(ProposeError::Rejected(Rejected::TopicExists(_)))
        ));
        assert_eq!(*quorum.view(), *before);
    });
}

#[test]
fn proposals_side_by_side_each_get_their_own_answer() {
    on_both(async |quorum| {
        start(quorum).await;
        let names: Vec<String> = (0..300).map(|n| format!("t{}", n % 100)).collect();
        let answers = futures::future::join_all(names.iter().map(|name| quorum.propose(create(name)))).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 100);
        assert_eq!(quorum.view().topics.len(), 100);
    });
}

#[test]
fn an_unknown_outcome_is_resolved_by_looking() {
    block_on(async {
        let quorum = Simulated::new(CLUSTER, 7, Faults::default());
        start(&quorum).await;
        quorum.set_faults(Faults {
            not_applied: 20,
            lost: 20,
            answer_lost: 20,
            ..Faults::default()
        });
        for n in 0..200 {
            let name = format!("t{n}");
            let answer = quorum.propose(create(&name)).await;
            let there = quorum.view().topic_named(&name).is_some();
            match answer {
                Ok(_) => assert!(there),
                Err(ProposeError::NotApplied(_)) => assert!(!there),
                Err(ProposeError::Unknown(_)) => {}
                Err(ProposeError::Rejected(rejected)) => panic!("{rejected}"),
            }
        }
        let topics = quorum.view().topics.len();
        assert!((100..180).contains(&topics), "{topics}");
    });
}

fn open(disk: &SimDisk) -> Result<SingleNode, OpenError> {
    SingleNode::open(Arc::new(disk.clone()), Path::new("/data"), CLUSTER)
}

fn path(name: &str) -> PathBuf {
    Path::new("/data/__cluster_metadata-0").join(name)
}

fn only(disk: &SimDisk, kind: &str) -> PathBuf {
    let names = disk.list(&path("")).unwrap();
    let mut of_kind = names.iter().filter(|name| name.ends_with(kind));
    let name = of_kind.next().unwrap();
    assert_eq!(of_kind.next(), None);
    path(name)
}

#[test]
fn the_state_is_the_same_after_a_restart() {
    let disk = SimDisk::new();
    let single = open(&disk).unwrap();
    block_on(async {
        start(&single).await;
        for n in 0..50 {
            single.propose(create(&format!("t{n}"))).await.unwrap();
        }
    });
    let before = single.view();
    single.close();
    assert_eq!(*open(&disk).unwrap().view(), *before);
}

#[test]
fn no_crash_loses_what_was_answered() {
    for seed in 0..40u64 {
        let disk = SimDisk::new();
        let mut chance = splitmix(seed);
        let mut acknowledged: Option<Arc<State>> = None;
        for life in 0..4 {
            let single = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let view = single.view();
            if let Some(known) = &acknowledged {
                assert!(view.applied >= known.applied, "seed {seed}");
                for name in known.topic_ids.keys() {
                    assert!(view.topic_named(name.as_str()).is_some(), "seed {seed}: {name}");
                }
            }
            disk.fail_write(u32::try_from(chance(20)).unwrap());
            block_on(live(&single, life, chance(15)));
            acknowledged = Some(single.view());
            let crash = [Crash::Unsynced, Crash::Tail, Crash::Scattered][chance(3)];
            disk.crash(crash, &mut chance);
            single.close();
        }
    }
}

/// A broker's life on a disk that may fail at any moment.
async fn live(single: &SingleNode, life: i32, topics: usize) {
    let _ = single.propose(register(1)).await;
    let broker = BrokerId::new(1);
    let Some(epoch) = single.view().brokers.get(&broker).map(|broker| broker.epoch) else {
        return;
    };
    let _ = single.propose(Command::UnfenceBroker { broker, epoch }).await;
    for n in 0..topics {
        let _ = single.propose(create(&format!("t-{life}-{n}"))).await;
    }
}

#[test]
fn a_torn_end_is_cut_and_damage_before_it_is_refused() {
    let disk = SimDisk::new();
    let single = open(&disk).unwrap();
    block_on(async {
        start(&single).await;
        single.propose(create("first")).await.unwrap();
        single.propose(create("last")).await.unwrap();
    });
    single.close();
    let log = only(&disk, ".log");
    let length = disk.open(&log).unwrap().len().unwrap();
    let flip = |position: u64| assert!(disk.corrupt(&log, usize::try_from(position).unwrap(), 1));

    flip(20);
    let refused = open(&disk).unwrap_err();
    assert!(
        matches!(&refused, OpenError::Corrupt { position: 8, .. }),
        "{refused}"
    );
    flip(20);
    flip(length - 1);
    let single = open(&disk).unwrap();
    assert!(single.view().topic_named("first").is_some() && single.view().topic_named("last").is_none());
    block_on(async { single.propose(create("again")).await.unwrap() });
    single.close();
    assert!(open(&disk).unwrap().view().topic_named("again").is_some());
}

#[test]
fn a_failing_disk_stops_the_quorum_and_says_what_it_does_not_know() {
    let disk = SimDisk::new();
    let single = open(&disk).unwrap();
    block_on(async {
        start(&single).await;
        disk.fail_sync(0);
        assert!(matches!(
            single.propose(create("a")).await,
            Err(ProposeError::Unknown(_))
        ));
        assert!(
            single.view().topic_named("a").is_none(),
            "shown only once it is safe"
        );
        assert!(matches!(
            single.propose(create("b")).await,
            Err(ProposeError::NotApplied(_) | ProposeError::Unknown(_))
        ));
    });
}

#[test]
fn snapshots_keep_the_log_short_and_survive_a_crash_at_any_step() {
    for seed in 0..8u64 {
        let disk = SimDisk::new();
        let mut chance = splitmix(seed);
        let single = open(&disk).unwrap();
        let long = "x".repeat(60_000);
        let set = |n: u32| Command::AlterConfigs {
            resource: varve_cluster::controller::ConfigResource::Broker(None),
            ops: vec![varve_cluster::controller::ConfigOp::Set {
                key: "k".into(),
                value: format!("{n}{long}"),
            }],
        };
        // The 70th command or so makes a snapshot due; the disk fails somewhere around it.
        disk.fail_write(60 + u32::try_from(chance(20)).unwrap());
        let known = block_on(async {
            for n in 0..100 {
                if single.propose(set(n)).await.is_err() {
                    break;
                }
            }
            single.view()
        });
        disk.crash([Crash::Unsynced, Crash::Tail][chance(2)], &mut chance);
        single.close();

        let single = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(single.view().applied >= known.applied, "seed {seed}");
        block_on(async {
            for n in 0..100 {
                single.propose(set(n)).await.unwrap();
            }
        });
        let known = single.view();
        single.close();
        assert!(disk.open(&only(&disk, ".log")).unwrap().len().unwrap() < 5 << 20);
        assert_eq!(*open(&disk).unwrap().view(), *known);
        only(&disk, ".snapshot");
    }
}

fn splitmix(mut seed: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(below.max(1)).unwrap()).unwrap()
    }
}
