//! Nodes and control talk: who says what when, what control answers, and what nodes make of it. The
//! rules are those of the agent and of control's server.

use xylem_control::limits::{HEARTBEAT_MS, TICK_MAX_MS};
use xylem_dataplane::relay::Event;
use xylem_protocol::limits::JOIN_WAIT_MS;

use super::control::{Place, Word};
use super::fate::End;
use super::node::Phase;
use super::run::MS_NS;
use super::world::{FLOW, Item, World, next_of};

impl World {
    /// A node wants the blob.
    pub(super) fn start(&mut self, node: u32) {
        let now_ns = self.agenda.now_ns();
        let here = &mut self.nodes[node as usize];
        if !here.is_up() {
            return;
        }
        here.phase = Phase::Fetching;
        here.times.asked = now_ns;
        self.moved_ns = now_ns;
        self.agenda.after(self.run.control_ns / 2, Item::Joined(node));
        self.agenda.after(JOIN_WAIT_MS * MS_NS, Item::Patience(node));
    }

    /// A node has its stream to control, and from now on says that it is there.
    pub(super) fn attach(&mut self, node: u32) {
        let now_ms = self.agenda.now_ns() / MS_NS;
        self.control.hear(node, Word::Hello, now_ms);
        let from_ns = self.agenda.now_ns();
        if self.control.listens() {
            let at_ns = next_of(node, u64::from(HEARTBEAT_MS) * MS_NS, from_ns);
            self.agenda.at(at_ns, Item::Beat(node));
        }
        if self.control.watches_hops(self.run.shape) {
            let at_ns = next_of(node, u64::from(self.report_ms) * MS_NS, from_ns);
            self.agenda.at(at_ns, Item::Report(node));
        }
    }

    /// A heartbeat; it takes along that the node has all of the blob.
    pub(super) fn beat(&mut self, node: u32) {
        let here = &mut self.nodes[node as usize];
        if !here.is_up() {
            return;
        }
        let complete = here.phase == Phase::Stored;
        let is_news = complete && !std::mem::replace(&mut here.told_complete, complete);
        self.agenda.after(u64::from(HEARTBEAT_MS) * MS_NS, Item::Beat(node));
        self.say(node, Word::Heartbeat);
        if is_news {
            self.say(node, Word::Complete);
        }
    }

    /// Control hears a node, and sends what follows from it.
    pub(super) fn say(&mut self, node: u32, word: Word) {
        let places = self.control.hear(node, word, self.agenda.now_ns() / MS_NS);
        self.post(places);
    }

    /// Control looks at its clock: who is silent, who is gone, what has waited.
    pub(super) fn clock(&mut self) {
        let places = self.control.tick(self.agenda.now_ns() / MS_NS);
        self.post(places);
        self.agenda.after(TICK_MAX_MS * MS_NS, Item::Clock);
    }

    /// A node's stream ends, by its word or without.
    pub(super) fn cut(&mut self, node: u32, end: End) {
        match end {
            End::Goodbye => self.say(node, Word::Goodbye),
            End::Closed => self.say(node, Word::Lost),
            End::Silent => {}
        }
    }

    /// By now control knows that a node is gone, also where it does not listen.
    pub(super) fn left(&mut self, node: u32) {
        self.plans -= 1;
        if !self.control.listens() {
            self.say(node, Word::Goodbye);
        }
    }

    /// Control has worked at a message, and sends what is to be told when it has the time.
    fn post(&mut self, places: Vec<Place>) {
        let begin_ns = self.control_free_ns.max(self.agenda.now_ns());
        self.control_free_ns = begin_ns + self.run.control_message_ns;
        for place in places {
            self.mail.push_back(place);
            self.agenda.at(self.control_free_ns + self.run.control_ns / 2, Item::Told);
        }
    }

    /// The oldest of control's letters is there.
    pub(super) fn told(&mut self) {
        let place = self.mail.pop_front().expect("a letter for each arrival");
        self.place(place);
    }

    /// A node knows a place since long.
    pub(super) fn settled(&mut self, places: Vec<Place>) {
        for place in places {
            self.place(place);
        }
    }

    fn place(&mut self, place: Place) {
        let here = &mut self.nodes[place.node as usize];
        here.branches = place.branches;
        if here.placed {
            self.moved(place.node, place.at_once);
        } else {
            self.placed(place.node);
        }
    }

    /// A node knows its place, or waits for that no longer: now it fetches.
    pub(super) fn placed(&mut self, node: u32) {
        let size = self.run.size;
        let here = &mut self.nodes[node as usize];
        if !std::mem::replace(&mut here.placed, true) && here.is_fetching() {
            here.striped = here.has_two_parents(size);
            let striped = here.striped;
            let fetch =
                Event::Fetch { flow: FLOW, resume: 0, size: None, striped, splits: false, rank: 0 };
            self.ready.push_back((node, fetch));
        }
    }
}
