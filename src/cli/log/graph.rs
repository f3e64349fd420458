//! Where the states of a forest are drawn: one row each, those made from a state above it, in lanes.
//!
//! Lanes are a stack. The largest of the branches that leave a state goes on in the state's own lane; each other one is drawn
//! whole, one lane further right, and then joins. So no more lanes are open at once than the logarithm of the number of
//! states, however many forks there are, and a picture of all is linear in their number but for that.
//!
//! Pure: it knows neither stores nor terminals.

use std::cmp::Reverse;

/// A state's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Which state, as the caller counts them.
    pub(super) state: usize,
    /// Counted from the left.
    pub(super) lane: usize,
    /// Does its lane end below it, in the next one to the left? What came before is the next state of that.
    pub(super) joins: bool,
    /// Does nothing that is drawn come before it?
    pub(super) is_first: bool,
}

/// Places states, each given by which came before it and when it was made. Newer ones come first where that is free.
///
/// What a damaged store may hold, a circle, is cut open somewhere.
pub(super) fn layout<T: Ord + Copy>(before: &[Option<usize>], made: &[T]) -> Vec<Place> {
    let mut forest = Forest::of(before);
    forest.sort(made);
    let mut places = Vec::with_capacity(before.len());
    // A state, its lane, whether it joins, and how many of the branches that leave it are drawn.
    let mut todo: Vec<(usize, usize, bool, usize)> = Vec::new();
    for root in &forest.roots {
        todo.push((*root, 0, false, 0));
        while let Some((state, lane, joins, drawn)) = todo.pop() {
            if let Some(next) = forest.after[state].get(drawn) {
                todo.push((state, lane, joins, drawn + 1));
                let is_branch = drawn > 0;
                todo.push((*next, lane + usize::from(is_branch), is_branch, 0));
            } else {
                places.push(Place { state, lane, joins, is_first: todo.is_empty() });
            }
        }
    }
    places
}

/// Draws a row: what stands left of its text, with `mark` for the state, and the line below it where the lane joins another.
pub(super) fn draw(place: Place, mark: char) -> (String, Option<String>) {
    let row = format!("{}{mark}", "| ".repeat(place.lane));
    let below = place.joins.then(|| format!("{}|/", "| ".repeat(place.lane - 1)));
    (row, below)
}

struct Forest {
    roots: Vec<usize>,
    after: Vec<Vec<usize>>,
    /// Each state after the one that came before it.
    order: Vec<usize>,
}

impl Forest {
    fn of(before: &[Option<usize>]) -> Self {
        let mut after = vec![Vec::new(); before.len()];
        let mut roots = Vec::new();
        for (state, before) in before.iter().enumerate() {
            match before {
                Some(before) => after[*before].push(state),
                None => roots.push(state),
            }
        }
        let mut forest = Self { roots: Vec::new(), after, order: Vec::with_capacity(before.len()) };
        let mut seen = vec![false; before.len()];
        for root in roots {
            forest.reach(root, &mut seen);
        }
        for state in 0..before.len() {
            if !seen[state] {
                let root = on_circle(state, before);
                if let Some(before) = before[root] {
                    forest.after[before].retain(|after| *after != root);
                }
                forest.reach(root, &mut seen);
            }
        }
        forest
    }

    fn reach(&mut self, root: usize, seen: &mut [bool]) {
        self.roots.push(root);
        let mut todo = vec![root];
        while let Some(state) = todo.pop() {
            seen[state] = true;
            self.order.push(state);
            todo.extend(&self.after[state]);
        }
    }

    /// The largest branch first, the others and the trees by their newest state.
    fn sort<T: Ord + Copy>(&mut self, made: &[T]) {
        let mut size = vec![1_usize; self.after.len()];
        let mut newest = made.to_vec();
        for state in self.order.iter().rev() {
            for after in &self.after[*state] {
                size[*state] += size[*after];
                newest[*state] = newest[*state].max(newest[*after]);
            }
        }
        self.roots.sort_by_key(|root| Reverse(newest[*root]));
        for after in &mut self.after {
            after.sort_by_key(|state| Reverse(newest[*state]));
            // The first of the largest: equals stay in their order.
            let largest = (0..after.len()).rev().max_by_key(|index| size[after[*index]]);
            if let Some(largest) = largest {
                after[..=largest].rotate_right(1);
            }
        }
    }
}

/// Returns a state of the circle that the ones before `state` run into.
fn on_circle(state: usize, before: &[Option<usize>]) -> usize {
    let mut passed = std::collections::HashSet::new();
    let mut at = state;
    while passed.insert(at) {
        at = before[at].unwrap_or(at);
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The picture, with each state's number behind it.
    fn picture(before: &[Option<usize>]) -> String {
        let made: Vec<usize> = (0..before.len()).collect();
        let mut text = String::new();
        for place in layout(before, &made) {
            let (row, below) = draw(place, '*');
            text.push_str(&format!("{row} {}\n", place.state));
            text.extend(below.map(|below| format!("{below}\n")));
            text.push_str(if place.is_first { "\n" } else { "" });
        }
        text
    }

    /// Reads a picture back: who stands on whom.
    fn edges(picture: &str) -> Vec<(usize, usize)> {
        let mut lanes: Vec<Vec<usize>> = Vec::new();
        let mut edges = Vec::new();
        for line in picture.lines() {
            if line.is_empty() {
                assert_eq!(lanes.len(), 1, "only one lane may be open where a tree ends");
                lanes.clear();
            } else if line.ends_with("|/") {
                assert_eq!(line.len(), lanes.len() * 2 - 2, "the last lane joins");
                let joined = lanes.pop().unwrap();
                lanes.last_mut().unwrap().extend(joined);
            } else {
                let (row, state) = line.rsplit_once(' ').unwrap();
                let (lane, state) = (row.len() / 2, state.parse().unwrap());
                assert_eq!(row, format!("{}*", "| ".repeat(lane)));
                if lane == lanes.len() {
                    lanes.push(Vec::new());
                }
                assert_eq!(lane + 1, lanes.len(), "a state is drawn in the last lane");
                edges.extend(lanes[lane].drain(..).map(|after| (after, state)));
                lanes[lane].push(state);
            }
        }
        assert!(lanes.is_empty());
        edges
    }

    #[test]
    fn a_chain_is_one_lane_and_forks_join_it() {
        assert_eq!(picture(&[None, Some(0), Some(1)]), "* 2\n* 1\n* 0\n\n");
        let forks = [None, Some(0), Some(1), Some(1), Some(0)];
        assert_eq!(picture(&forks), "* 3\n| * 2\n|/\n* 1\n| * 4\n|/\n* 0\n\n");
    }

    #[test]
    fn a_branch_of_a_branch_opens_a_third_lane() {
        let before = [None, Some(0), Some(1), Some(2), Some(0), Some(4), Some(4)];
        assert_eq!(picture(&before), "* 6\n| * 5\n|/\n* 4\n| * 3\n| * 2\n| * 1\n|/\n* 0\n\n");
        let nested = [None, Some(0), Some(1), Some(1), Some(0), Some(4), Some(5), Some(6)];
        assert_eq!(picture(&nested), "* 7\n* 6\n* 5\n* 4\n| * 3\n| | * 2\n| |/\n| * 1\n|/\n* 0\n\n");
    }

    #[test]
    fn circles_are_cut_open_and_all_is_drawn() {
        let places = layout(&[Some(1), Some(2), Some(0), Some(0), None], &[0; 5]);
        let mut states: Vec<usize> = places.iter().map(|place| place.state).collect();
        states.sort_unstable();
        assert_eq!(states, [0, 1, 2, 3, 4]);
        assert_eq!(layout(&[Some(0)], &[0]).len(), 1);
    }

    #[test]
    fn ten_thousand_forks_need_two_lanes_and_a_deep_chain_no_stack() {
        let mut wide = vec![None];
        wide.resize(10_000, Some(0));
        assert_eq!(layout(&wide, &vec![0; wide.len()]).iter().map(|place| place.lane).max(), Some(1));
        let deep: Vec<Option<usize>> = (0..100_000_usize).map(|state| state.checked_sub(1)).collect();
        assert!(layout(&deep, &vec![0; deep.len()]).iter().all(|place| place.lane == 0));
    }

    proptest! {
        #[test]
        fn every_edge_of_a_forest_is_drawn_and_none_else(seeds in prop::collection::vec(any::<u32>(), 0..200)) {
            // A state stands on an earlier one, or on none; numbers are shuffled so that neither order is relied on.
            let count = seeds.len();
            let shuffled = |state: usize| (state * 7 + 3) % count.max(1);
            prop_assume!(count % 7 != 0 || count == 0);
            let mut before = vec![None; count];
            for (state, seed) in seeds.iter().enumerate() {
                let choice = *seed as usize % (state + 1);
                before[shuffled(state)] = (choice < state).then(|| shuffled(choice));
            }
            let mut wanted: Vec<(usize, usize)> =
                before.iter().enumerate().filter_map(|(state, before)| Some((state, (*before)?))).collect();
            let mut drawn = edges(&picture(&before));
            wanted.sort_unstable();
            drawn.sort_unstable();
            prop_assert_eq!(drawn, wanted);
            let places = layout(&before, &vec![0; count]);
            prop_assert_eq!(places.len(), count);
            let lanes = places.iter().map(|place| place.lane + 1).max().unwrap_or(0);
            prop_assert!(lanes <= count.checked_ilog2().unwrap_or(0) as usize + 1, "{} lanes", lanes);
        }

        #[test]
        fn whatever_is_said_to_come_before_everything_is_drawn_once(raw in prop::collection::vec(any::<Option<u16>>(), 1..100)) {
            let count = raw.len();
            let before: Vec<Option<usize>> = raw.iter().map(|raw| raw.map(|raw| usize::from(raw) % count)).collect();
            let mut states: Vec<usize> = layout(&before, &vec![0; count]).iter().map(|place| place.state).collect();
            states.sort_unstable();
            prop_assert_eq!(states, (0..count).collect::<Vec<_>>());
        }
    }
}
