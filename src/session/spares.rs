//! Output buffers that connections use in turn: a quiet one holds none, and a busy one allocates none.

/// Buffers without an owner.
#[derive(Debug, Default)]
pub struct Spares(Vec<Vec<u8>>);

impl Spares {
    /// More than this many are not worth their memory.
    const MOST: usize = 4;
    /// Larger ones, in bytes, come from a peer that was slow for a while.
    const LARGEST: usize = 256 << 10;

    /// Gives an allocation to a buffer that has none.
    pub fn lend(&mut self, buffer: &mut Vec<u8>) {
        if buffer.capacity() == 0
            && let Some(spare) = self.0.pop()
        {
            *buffer = spare;
        }
    }

    /// Takes the allocation of an empty buffer.
    pub fn release(&mut self, buffer: &mut Vec<u8>) {
        if !buffer.is_empty() || buffer.capacity() == 0 {
            return;
        }
        let buffer = std::mem::take(buffer);
        if self.0.len() < Spares::MOST && buffer.capacity() <= Spares::LARGEST {
            self.0.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_buffer_goes_round_and_a_full_one_stays() {
        let mut spares = Spares::default();
        let mut full = vec![1, 2, 3];
        spares.release(&mut full);
        assert_eq!(full, [1, 2, 3]);
        full.clear();
        let place = full.as_ptr();
        spares.release(&mut full);
        assert_eq!(full.capacity(), 0);
        let mut next = Vec::new();
        spares.lend(&mut next);
        assert!(next.is_empty());
        assert_eq!(next.as_ptr(), place);
        let mut other = Vec::new();
        spares.lend(&mut other);
        assert_eq!(other.capacity(), 0, "there was only one");
    }

    #[test]
    fn spares_are_few_and_small() {
        let mut spares = Spares::default();
        spares.release(&mut Vec::with_capacity(Spares::LARGEST + 1));
        assert!(spares.0.is_empty());
        for _ in 0..10 {
            spares.release(&mut Vec::with_capacity(1));
        }
        assert_eq!(spares.0.len(), Spares::MOST);
    }
}
