//! The guardian's deadline: whatever happens to the daemon, a postmaster that nobody vouches for any more is ended in time.

// Helpers of tests unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, time::Duration};

use ptarmigan_clock::now;
use ptarmigan_guardian::{
    Deadline, Fence, Guardian, How, Postmaster, RawPid, State, process,
    protocol::{RefusalKind, StartRequest},
};
use rustix::process::Signal;
use support::{Site, kill, soon, until};

/// Ends when it is told to shut down fast, with a status that tells so.
const OBEYS: &str = "trap 'exit 7' INT; trap 'exit 8' QUIT; echo > ../up; while :; do sleep 0.01; done";
/// Ends when it is told to shut down at once, and only then.
const TAKES_ITS_TIME: &str = "trap '' INT; trap 'exit 8' QUIT; echo > ../up; while :; do sleep 0.01; done";
/// Hears nothing, nor do its children.
const DEAF: &str =
    "trap '' QUIT TERM INT; sleep 1000 & sleep 1000 & echo > ../up; while :; do sleep 0.01; done";

fn after(time: Duration, grace: Duration) -> Deadline {
    Deadline { at_boottime_us: Some((now() + time).0), grace_ms: grace.as_millis().try_into().unwrap() }
}

const fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

async fn start(site: &Site, guardian: &Guardian, script: &str, deadline: Deadline) -> Postmaster {
    let up = site.path().join("up");
    let _ = fs::remove_file(&up);
    let request = StartRequest { deadline, ..site.sh(script) };
    let postmaster = guardian.start(request).await.unwrap();
    until("the script runs", || up.exists()).await;
    postmaster
}

async fn fenced(guardian: &Guardian, generation: u64) -> Fence {
    let mut fences = guardian.fences();
    let passed = |fence: &Option<Fence>| fence.is_some_and(|fence| fence.generation == generation);
    let fence = *soon("the deadline passes", fences.wait_for(passed)).await.unwrap();
    fence.unwrap()
}

#[tokio::test]
async fn a_postmaster_is_told_to_shut_down_at_its_deadline() {
    let site = Site::new();
    let guardian = site.guardian().await;
    assert!(guardian.hello().deadlines);
    let deadline = after(ms(500), ms(10_000));
    let postmaster = start(&site, &guardian, OBEYS, deadline).await;
    assert_eq!(guardian.status().await.unwrap().deadline, deadline);
    let fence = fenced(&guardian, 1).await;
    assert_eq!((fence.pid, Some(fence.deadline_boottime_us)), (postmaster.pid, deadline.at_boottime_us));
    assert!(fence.at_boottime_us >= fence.deadline_boottime_us, "not before");
    println!("{} us after the deadline", fence.at_boottime_us - fence.deadline_boottime_us);
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert_eq!(exit.gone.how, How::Code(7), "by the shutdown, not by force");
    let status = guardian.status().await.unwrap();
    assert_eq!(
        (status.state, status.deadline, status.last_fence),
        // It counts for what somebody starts by hand.
        (State::None, deadline, Some(fence))
    );
}

#[tokio::test]
async fn what_does_not_shut_down_fast_is_told_to_do_so_at_once_after_half_of_the_grace() {
    let site = Site::new();
    let guardian = site.guardian().await;
    start(&site, &guardian, TAKES_ITS_TIME, after(ms(500), ms(4000))).await;
    let fence = fenced(&guardian, 1).await;
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert_eq!(exit.gone.how, How::Code(8));
    let after_us = exit.at_boottime_us - fence.deadline_boottime_us;
    assert!((2_000_000..4_000_000).contains(&after_us), "{after_us} us after the deadline");
}

/// Whoever is late has no time to be gentle.
#[tokio::test]
async fn a_guardian_that_stood_still_has_it_shut_down_at_once() {
    let site = Site::new();
    let guardian = site.guardian().await;
    start(&site, &guardian, OBEYS, after(ms(500), ms(1000))).await;
    let pid = guardian.hello().guardian_pid;
    kill(pid, Signal::STOP);
    let late = now() + ms(1500);
    until("the deadline has long been over", || now() > late).await;
    kill(pid, Signal::CONT);
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert_eq!(exit.gone.how, How::Code(8));
}

#[tokio::test]
async fn a_deadline_that_is_set_anew_keeps_it_alive_and_none_for_ever() {
    let site = Site::new();
    let guardian = site.guardian().await;
    let first = after(ms(2000), ms(0));
    start(&site, &guardian, OBEYS, first).await;
    let later = after(ms(4000), ms(0));
    guardian.set_deadline(1, later).await.unwrap();
    until("the first deadline is over", || now().0 > first.at_boottime_us.unwrap() + 100_000).await;
    assert_eq!(guardian.status().await.unwrap().state, State::Running);
    guardian.set_deadline(1, Deadline::default()).await.unwrap();
    until("the second one is over", || now().0 > later.at_boottime_us.unwrap() + 100_000).await;
    let status = guardian.status().await.unwrap();
    assert_eq!((status.state, status.last_fence), (State::Running, None));
    let other = guardian.set_deadline(2, Deadline::default()).await.unwrap_err();
    assert_eq!(other.refusal(), Some(RefusalKind::NoSuchPostmaster));
}

#[tokio::test]
async fn what_hears_nothing_is_killed_with_its_children_after_the_grace() {
    let site = Site::new();
    let guardian = site.guardian().await;
    let postmaster = start(&site, &guardian, DEAF, after(ms(500), ms(300))).await;
    until("its children run", || process::children(postmaster.pid).unwrap().len() >= 2).await;
    let fence = fenced(&guardian, 1).await;
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert_eq!(exit.gone.how, How::Signal(libc::SIGKILL));
    let after_us = exit.at_boottime_us - fence.deadline_boottime_us;
    println!("nothing is left {after_us} us after the deadline, of which the grace is 300000");
    assert!(after_us >= 300_000, "{after_us}");
    assert_eq!(process::with_cwd(&site.data()), Vec::<RawPid>::new());
}

/// Between two answers somebody else may lead: what comes too late changes nothing.
#[tokio::test]
async fn a_deadline_that_has_passed_is_final() {
    let site = Site::new();
    let guardian = site.guardian().await;
    start(&site, &guardian, DEAF, after(ms(300), ms(1500))).await;
    fenced(&guardian, 1).await;
    for deadline in [Deadline::default(), after(ms(60_000), ms(0))] {
        let refused = guardian.set_deadline(1, deadline).await.unwrap_err();
        assert_eq!(refused.refusal(), Some(RefusalKind::Fenced), "{refused}");
    }
    soon("the exit", guardian.exited(1)).await.unwrap();
    let past = StartRequest { deadline: after(ms(0), ms(0)), ..site.sh("exit 0") };
    let refused = guardian.start(past).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(RefusalKind::Fenced), "{refused}");
    // The next one is another one.
    start(&site, &guardian, OBEYS, after(ms(60_000), ms(0))).await;
    guardian.set_deadline(2, Deadline::default()).await.unwrap();
}

#[tokio::test]
async fn nobody_has_to_be_there_at_the_deadline() {
    let site = Site::new();
    let guardian = site.guardian().await;
    let postmaster = start(&site, &guardian, DEAF, after(ms(500), ms(0))).await;
    drop(guardian);
    until("the postmaster is gone", || !process::is_alive(postmaster.pid)).await;
    let guardian = site.guardian().await;
    soon("the exit", guardian.exited(1)).await.unwrap();
    let fence = guardian.status().await.unwrap().last_fence.unwrap();
    assert_eq!(fence.pid, postmaster.pid);
    assert_eq!(*guardian.fences().borrow(), Some(fence), "whoever comes later hears of it");
}

#[tokio::test]
async fn a_frozen_postmaster_is_ended_too() {
    let site = Site::new();
    let guardian = site.guardian().await;
    let postmaster = start(&site, &guardian, OBEYS, after(ms(700), ms(200))).await;
    kill(postmaster.pid, Signal::STOP);
    let exit = soon("the exit", guardian.exited(1)).await.unwrap();
    assert_eq!(exit.gone.how, How::Signal(libc::SIGKILL));
}

#[tokio::test]
async fn a_postmaster_may_die_with_its_guardian() {
    for dies in [true, false] {
        let site = Site::new();
        let guardian = site.guardian().await;
        let up = site.path().join("up");
        let request = StartRequest { dies_with_guardian: dies, ..site.sh(OBEYS) };
        let postmaster = guardian.start(request).await.unwrap();
        until("the script runs", || up.exists()).await;
        let killed_at = now();
        kill(guardian.hello().guardian_pid, Signal::KILL);
        soon("the loss is noticed", guardian.lost()).await;
        if dies {
            until("the postmaster is gone", || !process::is_alive(postmaster.pid)).await;
            println!("gone {:?} after its guardian was killed", now().since(killed_at));
        } else {
            assert!(process::is_alive(postmaster.pid), "as an orphan");
        }
    }
}
