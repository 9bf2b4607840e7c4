//! Circles of routes that name each other as parents.

/// For each route the number of its circle: two have the same when each leads to the other by its parents, or they are
/// one route. An edge leads from a child to its parent. (Tarjan, "Depth-first search and linear graph algorithms", 1972, without recursion.)
pub(super) fn circles(count: usize, edges: impl Iterator<Item = (usize, usize)>) -> Vec<usize> {
    const UNSEEN: usize = usize::MAX;
    let mut parents: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (child, parent) in edges {
        parents[child].push(parent);
    }
    let (mut order, mut low, mut circle) = (vec![UNSEEN; count], vec![0; count], vec![UNSEEN; count]);
    let (mut next, mut open) = (0, Vec::new());
    for start in 0..count {
        // A node with the number of its edges that were followed.
        let mut path = if order[start] == UNSEEN { vec![(start, 0)] } else { Vec::new() };
        while let Some(&mut (node, ref mut followed)) = path.last_mut() {
            if *followed == 0 && order[node] == UNSEEN {
                (order[node], low[node]) = (next, next);
                next += 1;
                open.push(node);
            }
            if let Some(&parent) = parents[node].get(*followed) {
                *followed += 1;
                if order[parent] == UNSEEN {
                    path.push((parent, 0));
                } else if circle[parent] == UNSEEN {
                    low[node] = low[node].min(order[parent]);
                }
                continue;
            }
            path.pop();
            if let Some(&(below, _)) = path.last() {
                low[below] = low[below].min(low[node]);
            }
            if low[node] == order[node] {
                while let Some(member) = open.pop() {
                    circle[member] = node;
                    if member == node {
                        break;
                    }
                }
            }
        }
    }
    circle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_a_circle_have_one_number() {
        // A circle of 1, 2 and 3 with a tail, two of two, and one that names itself.
        let edges = [(0, 1), (1, 2), (2, 3), (3, 1), (3, 4), (5, 6), (6, 5), (7, 8), (8, 7), (7, 5), (9, 9)];
        let circle = circles(10, edges.into_iter());
        for (a, b, expected) in [
            (1, 2, true),
            (2, 3, true),
            (0, 1, false),
            (3, 4, false),
            (5, 6, true),
            (7, 8, true),
            (5, 7, false),
            (9, 9, true),
        ] {
            assert_eq!(circle[a] == circle[b], expected, "{a} {b}: {circle:?}");
        }
    }
}
