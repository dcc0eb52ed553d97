//! The quorum resolver (contract B.22): by which steps `/sync` and `synchronous_standby_names` get from where they are to
//! where they should be, so that after each of them whoever wins a race has every acknowledged commit.

use ptarmigan_types::MemberName;

use super::NameSet;

/// Where things stand, and where they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Situation {
    /// The leader in `/sync`.
    pub leader: MemberName,
    /// The number in `/sync`: how many other voters a candidate needs.
    pub quorum: usize,
    /// Who may vote and stand, besides the leader.
    pub voters: NameSet,
    /// How many standbys a commit waits for.
    pub count: usize,
    /// The standbys in `synchronous_standby_names`.
    pub sync: NameSet,
    /// How many of them are known to have every commit up to the last change of the names.
    pub confirmed: usize,
    /// Who could be a synchronous standby.
    pub active: NameSet,
    /// How many standbys a commit shall wait for.
    pub wanted: usize,
    /// The leader that `/sync` shall name.
    pub leader_wanted: MemberName,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Write `/sync`.
    Quorum {
        /// Its leader.
        leader: MemberName,
        /// Its number.
        quorum: usize,
        /// Its voters.
        voters: NameSet,
    },
    /// Set `synchronous_standby_names`.
    Sync {
        /// How many a commit waits for.
        count: usize,
        /// Who is named.
        names: NameSet,
    },
    /// Look again: who was named before has to catch up first.
    Restart,
}

/// `/sync` and `synchronous_standby_names` do not fit each other, and nothing repairs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(String);

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the quorum state is inconsistent: {}", self.0)
    }
}

impl std::error::Error for Violation {}

/// The steps, in order (contract B.22, R1 to R9).
///
/// # Errors
/// No order of steps leads there safely.
pub fn resolve(situation: Situation) -> Result<Vec<Transition>, Violation> {
    let mut resolver = Resolver::new(situation);
    resolver.run()?;
    Ok(last_of_each_run(resolver.steps))
}

/// As [`resolve`]; where the rules lead to a step that is not safe (R7 does where a standby is new and two more are wanted),
/// those before it. From there on it is asked again.
///
/// # Errors
/// Not even the first step is safe.
pub fn resolve_as_far_as_safe(situation: Situation) -> Result<Vec<Transition>, Violation> {
    let mut resolver = Resolver::new(situation);
    match resolver.run() {
        Err(violation) if resolver.steps.is_empty() => Err(violation),
        _ => Ok(last_of_each_run(resolver.steps)),
    }
}

/// R9: of consecutive steps of one kind only the last counts, and nothing comes after [`Transition::Restart`].
fn last_of_each_run(steps: Vec<Transition>) -> Vec<Transition> {
    let mut kept: Vec<Transition> = Vec::new();
    for step in steps {
        if kept.last().is_some_and(|last| std::mem::discriminant(last) == std::mem::discriminant(&step)) {
            kept.pop();
        }
        let ends = step == Transition::Restart;
        kept.push(step);
        if ends {
            break;
        }
    }
    kept
}

struct Resolver {
    leader: MemberName,
    quorum: i64,
    voters: NameSet,
    count: i64,
    sync: NameSet,
    confirmed: i64,
    active: NameSet,
    wanted: i64,
    leader_wanted: MemberName,
    steps: Vec<Transition>,
}

fn size(names: &NameSet) -> i64 {
    signed(names.len())
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

impl Resolver {
    fn new(from: Situation) -> Self {
        Self {
            leader: from.leader,
            quorum: signed(from.quorum),
            voters: from.voters,
            count: signed(from.count.min(from.sync.len())),
            sync: from.sync,
            confirmed: signed(from.confirmed),
            active: from.active,
            wanted: signed(from.wanted),
            leader_wanted: from.leader_wanted,
            steps: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        if self.change_leader()? {
            return Ok(());
        }
        if self.confirmed == 0 && self.sync.meets(&self.active) {
            let known = size(&self.sync.and(&self.active));
            self.confirmed = known.min(size(&self.voters) - self.quorum);
        }
        if self.sync != self.voters && self.sync.is_within(&self.voters) {
            self.sync_within_voters()?;
        } else if self.sync != self.voters && self.voters.is_within(&self.sync) {
            self.voters_within_sync()?;
        }
        if self.sync != self.voters {
            return Err(Violation(format!("voters {} and standbys {} differ", self.voters, self.sync)));
        }
        self.safety_margin()?;
        self.gone()?;
        self.new_ones()?;
        self.factor()
    }

    /// The invariants hold: one of the two sets contains the other, and any majority of voters meets any set of standbys
    /// that acknowledged a commit.
    fn check(&self) -> Result<(), Violation> {
        let voters = self.voters.with(&self.leader);
        let sync = self.sync.with(&self.leader_wanted);
        let known = self.voters.is_empty() || size(&voters.or(&sync)) <= self.quorum + self.count + 1;
        let nested = voters.is_within(&sync) || sync.is_within(&voters);
        if known && nested {
            return Ok(());
        }
        Err(Violation(format!(
            "voters {} and {} need {}, standbys {} and {} need {}",
            self.leader, self.voters, self.quorum, self.leader_wanted, self.sync, self.count
        )))
    }

    fn set_quorum(&mut self, quorum: i64, voters: NameSet, adjust: bool) -> Result<(), Violation> {
        self.set_quorum_of(None, quorum, voters, adjust)
    }

    fn set_quorum_of(
        &mut self,
        leader: Option<MemberName>,
        quorum: i64,
        voters: NameSet,
        adjust: bool,
    ) -> Result<(), Violation> {
        if quorum < 0 || (quorum > 0 && quorum >= size(&voters)) {
            return Err(Violation(format!("a quorum of {quorum} among {voters}")));
        }
        let (mut quorum, mut voters) = (quorum, voters);
        if let Some(leader) = leader {
            self.leader = leader;
        } else if self.confirmed == 0 && self.voters.is_empty() {
            (quorum, voters) = (0, NameSet::default());
        } else if adjust {
            quorum += (self.count - self.confirmed).max(0);
        }
        if quorum == self.quorum && voters == self.voters {
            if self.voters.is_empty() {
                self.steps.push(Transition::Restart);
            }
            return Ok(());
        }
        self.quorum = quorum;
        self.voters = voters;
        self.check()?;
        self.steps.push(Transition::Quorum {
            leader: self.leader.clone(),
            quorum: unsigned(self.quorum),
            voters: self.voters.clone(),
        });
        Ok(())
    }

    fn set_sync(&mut self, count: i64, names: NameSet) -> Result<(), Violation> {
        if count < 0 || count > size(&names) {
            return Err(Violation(format!("{count} synchronous standbys among {names}")));
        }
        self.count = count;
        self.sync = names;
        self.check()?;
        self.steps.push(Transition::Sync { count: unsigned(count), names: self.sync.clone() });
        Ok(())
    }

    /// R1; true: nothing comes after it.
    fn change_leader(&mut self) -> Result<bool, Violation> {
        let consistent =
            if self.leader_wanted == self.leader { self.check().map(|()| false) } else { self.hand_over() };
        match consistent {
            Ok(ends) => Ok(ends),
            Err(_) => {
                self.set_quorum(size(&self.sync) - self.count, self.sync.clone(), true)?;
                if self.leader != self.leader_wanted {
                    return Err(Violation(format!("{} is still the leader in /sync", self.leader)));
                }
                Ok(false)
            }
        }
    }

    fn hand_over(&mut self) -> Result<bool, Violation> {
        let mine: NameSet = std::iter::once(self.leader_wanted.clone()).collect();
        let voters = self.voters.without(&mine).with(&self.leader);
        if self.sync.is_empty() {
            self.set_sync(size(&voters) - self.quorum, voters.clone())?;
        }
        self.set_quorum_of(Some(self.leader_wanted.clone()), self.quorum, voters, true)?;
        Ok(!self.sync.meets(&self.active))
    }

    /// R3.
    fn sync_within_voters(&mut self) -> Result<(), Violation> {
        let dead = self.voters.without(&self.sync).without(&self.active);
        if !dead.is_empty() {
            let quorum = size(&self.voters) - size(&dead) - self.count;
            let adjust = self.sync.is_within(&self.active);
            self.set_quorum(quorum, self.voters.without(&dead), adjust)?;
        }
        let add = self.voters.and(&self.active).without(&self.sync);
        if !add.is_empty() {
            self.set_sync(self.count, self.sync.or(&add))?;
        }
        Ok(())
    }

    /// R4.
    fn voters_within_sync(&mut self) -> Result<(), Violation> {
        let gone = self.sync.without(&self.active);
        let left = self.sync.without(&gone);
        if !gone.is_empty() && !left.is_empty() && (self.voters.is_empty() || left.meets(&self.voters)) {
            self.set_sync(self.count.min(size(&left)), left)?;
        }
        let add = self.sync.without(&self.voters).and(&self.active);
        if !add.is_empty() {
            let voters = self.voters.or(&add);
            self.set_quorum(size(&voters) - self.count, voters, true)?;
        }
        let rest = self.sync.without(&self.voters);
        if !rest.is_empty() {
            let left = self.sync.without(&rest);
            self.set_sync(self.count.min(size(&left)), left)?;
        }
        Ok(())
    }

    /// R5: more is guaranteed than needed, or than is known to be.
    fn safety_margin(&mut self) -> Result<(), Violation> {
        let voters = size(&self.voters);
        let margin = self.quorum + self.count.min(self.confirmed) - voters;
        if margin > 0 {
            if self.count > self.wanted {
                return self.set_sync(self.wanted.max(voters - self.quorum), self.sync.clone());
            }
            return self.set_quorum(size(&self.sync) - self.count, self.voters.clone(), true);
        }
        let unconfirmed = self.count > self.confirmed;
        if self.count == self.wanted && self.quorum + self.count - voters > 0 && unconfirmed {
            return self.set_quorum(size(&self.sync) - self.count, self.voters.clone(), true);
        }
        Ok(())
    }

    /// R6: standbys that are gone.
    fn gone(&mut self) -> Result<(), Violation> {
        let mut gone = self.sync.without(&self.active);
        if gone.is_empty() {
            return Ok(());
        }
        if gone == self.sync {
            self.set_quorum(0, NameSet::default(), false)?;
            return self.set_sync(0, NameSet::default());
        }
        if self.quorum > 0 {
            let first = gone.last(unsigned(self.quorum));
            let left = self.sync.without(&first);
            self.set_sync(self.wanted.max(self.count).min(size(&left)), left)?;
            gone = gone.without(&first);
            let voters = self.voters.without(&first);
            self.set_quorum(size(&voters) - self.count, voters, gone.is_empty())?;
        }
        if gone.is_empty() {
            return Ok(());
        }
        let count = self.count - size(&gone);
        let left = self.sync.without(&gone);
        let spare = count - self.wanted.min(size(&left));
        let voters = self.voters.without(&gone);
        let quorum = if spare == 0 { 0 } else { spare.min(size(&voters) - 1) };
        self.set_quorum(quorum, voters, false)?;
        self.set_sync(count, left)
    }

    /// R7: standbys that are new.
    fn new_ones(&mut self) -> Result<(), Violation> {
        let mut new = self.active.without(&self.sync);
        if new.is_empty() {
            return Ok(());
        }
        let wanted = self.wanted.min(size(&self.sync.or(&new)));
        let more = wanted - self.count;
        if more > 0 {
            let add = if self.sync.is_empty() { new.clone() } else { new.first(unsigned(more)) };
            let more = if self.sync.is_empty() { more } else { size(&add) };
            self.set_sync(self.count + more, self.sync.or(&add))?;
            let voters = self.voters.or(&add);
            self.set_quorum(size(&voters) - wanted, voters, true)?;
            new = new.without(&self.sync);
        }
        if new.is_empty() {
            return Ok(());
        }
        let voters = self.voters.or(&new);
        self.set_quorum(size(&voters) - wanted, voters, wanted > self.confirmed)?;
        self.set_sync(wanted, self.sync.or(&new))
    }

    /// R8: another number of standbys is wanted.
    fn factor(&mut self) -> Result<(), Violation> {
        let difference = self.wanted.min(size(&self.sync)) - self.count;
        let voters = size(&self.voters);
        if difference > 0 {
            self.set_sync(self.count + difference, self.sync.clone())?;
            return self.set_quorum(voters - self.count, self.voters.clone(), true);
        }
        if difference < 0 {
            if self.quorum - difference < voters {
                let adjust = self.wanted > self.confirmed;
                self.set_quorum(voters - self.count - difference, self.voters.clone(), adjust)?;
            }
            return self.set_sync(self.count + difference, self.sync.clone());
        }
        Ok(())
    }
}
