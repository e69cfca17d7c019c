//! This broker as a member of the cluster: registered, alive by heartbeat, leaving in order. And, on the node that
//! leads the quorum, the other side of it: who is alive, and what follows when somebody is not.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use varve_cluster::controller::command::ReplicaLog;
use varve_cluster::controller::{Command, Heartbeat, HeartbeatAnswer, Heartbeats, Rejected};
use varve_cluster::raft::NodeId;
use varve_cluster::{BrokerEpoch, BrokerId};

use super::balance::Balance;
use super::{Controllers, PartitionKey};
use crate::broker::Broker;
use crate::config::{LeaderBalance, QuorumSettings};
use crate::metadata::MetadataQuorum;
use crate::metadata::replicated::{QuorumView, Replicated};

/// A connection on a network that works is there by then, or refused.
const CONNECT_WAIT: Duration = Duration::from_millis(300);

/// See the module's first lines.
pub(crate) struct Membership {
    me: BrokerId,
    quorum: Arc<Replicated>,
    controllers: Arc<Controllers>,
    /// `inter.broker.listener.name`
    inter_broker_listener: String,
    heartbeat_every: Duration,
    session: Duration,
    balance: Option<LeaderBalance>,
    began: Instant,
    /// What the leader of the quorum knows of brokers; `None` elsewhere.
    heard: Mutex<Option<Heartbeats>>,
    /// Set when this broker's partitions are open.
    broker: OnceLock<Weak<Broker>>,
    leaving: watch::Sender<bool>,
    may_stop: watch::Sender<bool>,
    superseded: watch::Sender<bool>,
}

impl Membership {
    pub(crate) fn new(
        me: BrokerId,
        quorum: Arc<Replicated>,
        controllers: Arc<Controllers>,
        inter_broker_listener: String,
        settings: &QuorumSettings,
    ) -> Arc<Self> {
        Arc::new(Self {
            me,
            quorum,
            controllers,
            inter_broker_listener,
            heartbeat_every: settings.heartbeat_interval,
            session: settings.session_timeout,
            balance: settings.balance,
            began: Instant::now(),
            heard: Mutex::new(None),
            broker: OnceLock::new(),
            leaving: watch::Sender::new(false),
            may_stop: watch::Sender::new(false),
            superseded: watch::Sender::new(false),
        })
    }

    pub(crate) fn quorum(&self) -> &Arc<Replicated> {
        &self.quorum
    }

    /// From here on this broker can say what its logs hold.
    pub(crate) fn opened(&self, broker: &Arc<Broker>) {
        // Only a second call could fail, and there is none.
        let _ = self.broker.set(Arc::downgrade(broker));
    }

    /// What this broker's logs hold.
    pub(crate) fn own_logs(&self, keys: &[PartitionKey]) -> Vec<Option<ReplicaLog>> {
        let broker = self.broker.get().and_then(Weak::upgrade);
        let log = |(topic, index): &PartitionKey| {
            let broker = broker.as_ref()?;
            let partition = broker.partitions.get(*topic, *index)?;
            Some(partition.with_log(|log| ReplicaLog {
                broker: broker.id(),
                epoch: broker.epoch,
                last_epoch: log.epochs().latest(),
                log_end: log.log_end(),
            }))
        };
        keys.iter().map(log).collect()
    }

    /// What the logs of partitions hold at the brokers named beside each. Who does not answer is missing.
    pub(crate) async fn logs(
        &self,
        ask: impl IntoIterator<Item = (PartitionKey, Vec<BrokerId>)>,
    ) -> BTreeMap<PartitionKey, Vec<ReplicaLog>> {
        let mut keys: BTreeMap<BrokerId, Vec<PartitionKey>> = BTreeMap::new();
        for (key, brokers) in ask {
            for broker in brokers {
                keys.entry(broker).or_default().push(key);
            }
        }
        let mut logs: BTreeMap<PartitionKey, Vec<ReplicaLog>> = BTreeMap::new();
        for (broker, keys) in keys {
            let told = self.logs_of(broker, keys.clone()).await.unwrap_or_default();
            for (key, log) in keys.into_iter().zip(told) {
                logs.entry(key).or_default().extend(log);
            }
        }
        logs
    }

    async fn logs_of(&self, broker: BrokerId, keys: Vec<PartitionKey>) -> Option<Vec<Option<ReplicaLog>>> {
        match broker == self.me {
            true => Some(self.own_logs(&keys)),
            false => self.controllers.logs(NodeId::new(broker.value()), keys).await,
        }
    }

    /// How the quorum stands; `None` while it has no leader that answers.
    pub(crate) async fn describe_quorum(&self) -> Option<QuorumView> {
        if let Some(view) = self.quorum.describe() {
            return Some(view);
        }
        let leader = *self.quorum.leader().borrow();
        self.controllers.describe(leader?).await
    }

    /// Both sides, until the node stops.
    pub(crate) fn start(
        self: &Arc<Self>,
        epoch: BrokerEpoch,
        runtime: &tokio::runtime::Handle,
        stopped: &watch::Receiver<bool>,
    ) {
        let (member, mut stop) = (Arc::clone(self), stopped.clone());
        runtime.spawn(async move {
            tokio::select! {
                () = member.stay_alive(epoch) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
        let (controller, mut stop) = (Arc::clone(self), stopped.clone());
        runtime.spawn(async move {
            tokio::select! {
                () = controller.watch_brokers() => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    }

    /// Returns when another process has registered as this broker: nobody hears this one any more.
    pub(crate) async fn superseded(&self) {
        let mut superseded = self.superseded.subscribe();
        // Its sender is here, so there is no other end.
        let _ = superseded.wait_for(|superseded| *superseded).await;
    }

    /// Has leaderships moved away; returns when nobody needs this broker any more, or after `patience`.
    pub(crate) async fn leave(&self, patience: Duration) {
        if *self.superseded.borrow() {
            return;
        }
        self.leaving.send_replace(true);
        let mut may_stop = self.may_stop.subscribe();
        let left = tokio::time::timeout(patience, may_stop.wait_for(|may| *may)).await;
        if left.is_err() {
            tracing::warn!(
                "the controller did not let this broker go in time; others will take over when its session ends"
            );
        }
    }

    /// A broker's heartbeat, where the quorum's leader is; `None` if that is not here.
    pub(crate) fn hear(&self, beat: Heartbeat) -> Option<Result<HeartbeatAnswer, Rejected>> {
        let state = self.quorum.view();
        let heard = self.heard.lock().as_mut()?.heard(&state, beat, self.now());
        Some(heard.map(|(answer, command)| {
            if let Some(command) = command {
                self.propose_aside(command);
            }
            answer
        }))
    }

    async fn stay_alive(&self, epoch: BrokerEpoch) {
        let mut leaving = self.leaving.subscribe();
        loop {
            let beat = Heartbeat {
                broker: self.me,
                epoch,
                applied: self.quorum.view().applied,
                want_fence: false,
                want_shutdown: *leaving.borrow_and_update(),
            };
            let answer = self.beat(beat).await;
            match answer {
                Some(Ok(answer)) if answer.should_shut_down => {
                    self.may_stop.send_replace(true);
                }
                Some(Err(Rejected::StaleBrokerEpoch { current, .. })) if current > epoch => {
                    self.superseded.send_replace(true);
                    return;
                }
                Some(Err(rejected)) => {
                    tracing::warn!(%rejected, "this broker's heartbeat is refused");
                }
                Some(Ok(_)) | None => {}
            }
            tokio::select! {
                () = tokio::time::sleep(self.heartbeat_every) => {}
                _ = leaving.changed() => {}
            }
        }
    }

    async fn beat(&self, beat: Heartbeat) -> Option<Result<HeartbeatAnswer, Rejected>> {
        let leader = *self.quorum.leader().borrow();
        let leader = leader?;
        match leader == NodeId::new(self.me.value()) {
            true => self.hear(beat),
            false => self.controllers.heartbeat(leader, beat).await,
        }
    }

    async fn watch_brokers(self: Arc<Self>) {
        let me = NodeId::new(self.me.value());
        let mut leader = self.quorum.leader();
        let every = (self.heartbeat_every / 2).min(self.session / 4);
        let mut balance = Balance::new(self.balance);
        loop {
            let leads = *leader.borrow_and_update() == Some(me);
            self.look_at_sessions(leads);
            balance.look(leads, &self, &self.quorum.view());
            if leads {
                self.look_for_dead().await;
                super::recovery::look(&self, &self.quorum.view()).await;
            }
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                changed = leader.changed() => if changed.is_err() { return },
            }
        }
    }

    fn look_at_sessions(self: &Arc<Self>, leads: bool) {
        let state = self.quorum.view();
        let mut heard = self.heard.lock();
        if !leads {
            *heard = None;
            return;
        }
        let session = millis(self.session);
        let heard = heard.get_or_insert_with(|| Heartbeats::begin(session, &state, self.now()));
        for fence in heard.lapsed(&state, self.now()) {
            tracing::warn!(?fence, "a broker has been silent for a session");
            self.propose_aside(fence);
        }
    }

    /// A broker that has missed a heartbeat and whose host refuses connections to it is dead: nobody waits for the
    /// rest of its session. Of one that cannot be reached at all, nothing is known before that.
    async fn look_for_dead(&self) {
        let state = self.quorum.view();
        let missed = self.heartbeat_every + self.heartbeat_every / 2;
        let silent = match &*self.heard.lock() {
            Some(heard) => heard.silent_for(millis(missed), &state, self.now()),
            None => return,
        };
        let mut looks = JoinSet::new();
        for (id, fence) in silent {
            // Other listeners may name addresses that only clients can use.
            let registered = state.brokers.get(&id);
            if let Some(listener) = registered.and_then(|it| it.listener(&self.inter_broker_listener)) {
                let address = (listener.host.clone(), listener.port);
                looks.spawn(async move { nobody_listens(address).await.then_some(fence) });
            }
        }
        for fence in looks.join_all().await.into_iter().flatten() {
            tracing::warn!(?fence, "a broker is silent and nobody listens at its address");
            self.propose_aside(fence);
        }
    }

    /// What fails is due again with the next heartbeat or look.
    pub(super) fn propose_aside(&self, command: Command) {
        let quorum = Arc::clone(&self.quorum);
        tokio::spawn(async move {
            if let Err(error) = quorum.place(command).await {
                tracing::debug!(?error, "a command of the controller has no place yet");
            }
        });
    }

    fn now(&self) -> i64 {
        millis(self.began.elapsed())
    }
}

async fn nobody_listens(address: (String, u16)) -> bool {
    let connected = tokio::time::timeout(CONNECT_WAIT, TcpStream::connect(address)).await;
    matches!(connected, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
