"""Which sequence holds which cells of the KV cache, and which prefixes need not be computed again.

The engine's cache is one pool of cells; a cell may belong to several sequences. A prefix that
another sequence holds is shared by seq_cp(), which copies nothing. What a finished sequence held
stays until the cells are needed. Eviction takes the least recently used holder first, and its end
first, because beginnings are what requests have in common.

Prefixes are found by blocks of _BLOCK tokens. A block is known by its tokens and the block before
it, so one dictionary look-up per block walks down to the longest known prefix (vLLM's chained
block hashes, with the tokens themselves as keys, which rules collisions out). A salt begins the
chain, so requests with different salts never share.

The first block of a conversation has another length: all of `head`, the beginning that the chat
template gives every conversation. A new conversation then finds every token of it.
"""
# SPDX-License-Identifier: MIT

_BLOCK = 4  # short prompts have a prefix, too; each block costs a look-up


class _Cells:
    # The cells of one block.
    def __init__(self, key, size):
        self.key = key
        self.size = size
        self.refs = 0  # sequences that share them
        self.pins = 0  # those of them that run


class Holder:
    """A sequence of the engine. seq: its number; tokens: those in its cells, in order; first: how
    many its first block has.
    """

    def __init__(self, seq, salt, first=_BLOCK):
        self.seq = seq
        self.salt = salt
        self.first = first
        self.tokens = []
        self.blocks = []  # _Cells of every full block
        self.running = True
        self.used_at = 0
        self.slot = None  # the number of the slot that it runs or ran in

    @property
    def tail(self):
        """How many cells lie behind the last full block. No other sequence shares them."""
        return len(self.tokens) - self.end(len(self.blocks))

    def blocks_of(self, n):
        """Return how many full blocks the first n tokens have."""
        return 1 + (n - self.first) // _BLOCK if n >= self.first else 0

    def end(self, blocks):
        """Return how many tokens the first `blocks` blocks have."""
        return self.first + _BLOCK * (blocks - 1) if blocks else 0


class PrefixCache:
    """The cells of an engine's KV cache.

    engine: its seq_rm() and seq_cp() are called, and nothing else. n_running: sequences that run
    at a time; the engine's others are for prefixes that are kept. keep: cells that those may hold.
    """

    def __init__(self, engine, n_running, keep=None):
        self.engine = engine
        self.n_cells = engine.n_ctx
        self.shares = engine.divisible and engine.n_seq > n_running
        self.keep = engine.n_ctx // 2 if keep is None else keep
        self.used = 0  # cells
        self.pinned = 0  # cells held by running sequences
        self.n_queries = 0  # prompt tokens looked up
        self.n_hits = 0  # prompt tokens found
        self.idle = []  # holders kept for their prefix
        self.head = []  # tokens that begin every conversation
        self._free = list(range(engine.n_seq - 1, -1, -1))
        self._keys = {}  # (key of the block before, tokens) -> key
        self._where = {}  # key -> (entry of _keys, [holders])
        self._next = 0
        self._clock = 0

    @property
    def available(self):
        """How many cells a running sequence can have: free ones, and those of idle holders."""
        return self.n_cells - self.pinned

    def find(self, tokens, salt=""):
        """Return (holder, number of tokens) of the longest known prefix that leaves at least the
        last token to compute, or (None, 0).
        """
        if not self.shares:
            return None, 0
        key = salt
        found = None
        n = 0
        size = self._first(tokens, salt)
        while n + size < len(tokens):
            key = self._keys.get((key, tuple(tokens[n : n + size])))
            if key is None:
                break
            found = self._where[key][1][-1]
            n += size
            size = _BLOCK
        return found, n

    def _first(self, tokens, salt):
        # The length of the first block of `tokens`.
        n = len(self.head)
        return n if n and not salt and tokens[:n] == self.head else _BLOCK

    def start(self, tokens, salt="", share=True):
        """Return a running Holder for a sequence of `tokens`, with what is known of them."""
        source, n = self.find(tokens, salt) if share else (None, 0)
        self.n_queries += len(tokens)
        self._clock += 1
        if source:
            source.used_at = self._clock
            size = len(source.tokens)
            whole = size < len(tokens) and source.tokens == tokens[:size]
            if not source.running and (whole or not self._free and len(self.idle) == 1):
                # It holds this prefix and nothing else, as in the next turn of a chat; or no other
                # sequence is left. Continue it instead of sharing it.
                if not whole:
                    self._cut(source, source.blocks_of(n))
                self.idle.remove(source)
                source.running = True
                self._pin(source, 1)
                self.n_hits += len(source.tokens)
                return source
        if not self._free:
            self.drop(self._oldest(source))
        holder = Holder(self._free.pop(), salt, self._first(tokens, salt))
        if source:
            self.engine.seq_cp(source.seq, holder.seq, 0, n)
            holder.tokens = tokens[:n]
            for cells in source.blocks[: source.blocks_of(n)]:
                self._add(holder, cells)
            self.n_hits += n
        return holder

    def extend(self, holder, tokens):
        """Note that `tokens` were computed behind those of the holder."""
        holder.tokens.extend(tokens)
        self.used += len(tokens)
        self.pinned += len(tokens)
        while True:
            at = holder.end(len(holder.blocks))
            size = _BLOCK if holder.blocks else holder.first
            if len(holder.tokens) < at + size:
                break
            before = holder.blocks[-1].key if holder.blocks else holder.salt
            entry = (before, tuple(holder.tokens[at : at + size]))
            key = self._keys.get(entry)
            if key is None:
                self._next += 1
                key = self._next
                self._keys[entry] = key
                self._where[key] = (entry, [])
            self.used -= size  # _add counts them again
            self.pinned -= size
            self._add(holder, _Cells(key, size))

    def stop(self, holder, keep=True):
        """Note that the holder's sequence runs no more. keep: its prefix may be of use."""
        holder.running = False
        self._pin(holder, -1)
        self._clock += 1
        holder.used_at = self._clock
        self.idle.append(holder)
        known = self._known(holder) if keep and self.shares and holder.blocks else None
        if known and not known.running:
            known.slot = holder.slot  # the slot's prefix is there
        if known or not (keep and self.shares and holder.blocks):
            self.drop(holder)
        while sum([len(h.tokens) for h in self.idle]) > self.keep:
            self.drop(self._oldest())

    def adopt(self, tokens, salt, fill):
        """Return an idle Holder of `tokens`, whose cells fill(seq) makes. None: there is no room."""
        if not self.shares or len(tokens) > self.keep:
            return None
        if not self._free and self.idle:
            self.drop(self._oldest())
        if not self._free or not self.make_room(len(tokens)):
            return None
        holder = Holder(self._free.pop(), salt, self._first(tokens, salt))
        try:
            fill(holder.seq)
        except BaseException:
            self._free.append(holder.seq)
            raise
        self.extend(holder, tokens)
        self.stop(holder)
        return holder if holder in self.idle else self.find(tokens, salt)[0]

    def make_room(self, n):
        """Free cells of idle holders until n are free. Return whether they are."""
        while self.n_cells - self.used < n and self.idle:
            holder = self._oldest()
            need = n - (self.n_cells - self.used)
            cells = holder.tail
            blocks = len(holder.blocks)
            while cells < need and blocks:
                blocks -= 1
                if holder.blocks[blocks].refs == 1:
                    cells += holder.blocks[blocks].size
            if blocks:
                self._cut(holder, blocks)
            else:
                self.drop(holder)
        return self.n_cells - self.used >= n

    def flush(self):
        """Forget all kept prefixes."""
        while self.idle:
            self.drop(self.idle[-1])

    def _oldest(self, but=None):
        # The least recently used idle holder, other than `but`.
        oldest = None
        for holder in self.idle:
            if holder is not but and (oldest is None or holder.used_at < oldest.used_at):
                oldest = holder
        return oldest

    def _cut(self, holder, blocks):
        # Drops all but the first `blocks` blocks of an idle holder.
        self.engine.seq_rm(holder.seq, holder.end(blocks), -1)
        self.used -= holder.tail
        while len(holder.blocks) > blocks:
            self._remove(holder, holder.blocks.pop())
        holder.tokens = holder.tokens[: holder.end(blocks)]

    def _known(self, holder):
        # Another holder that has all of its full blocks, too, or None.
        for other in self._where[holder.blocks[-1].key][1]:
            if other is not holder:
                return other
        return None

    def drop(self, holder):
        """Free the cells of an idle holder, and its sequence."""
        self.idle.remove(holder)
        self.engine.seq_rm(holder.seq, -1, -1)
        self.used -= holder.tail
        holder.tokens = []
        while holder.blocks:
            self._remove(holder, holder.blocks.pop())
        self._free.append(holder.seq)

    def _add(self, holder, cells):
        if not cells.refs:
            self.used += cells.size
        if not cells.pins:
            self.pinned += cells.size
        cells.refs += 1
        cells.pins += 1
        holder.blocks.append(cells)
        self._where[cells.key][1].append(holder)

    def _remove(self, holder, cells):
        # The holder does not run.
        cells.refs -= 1
        if not cells.refs:
            self.used -= cells.size
        entry, holders = self._where[cells.key]
        holders.remove(holder)
        if not holders:
            del self._where[cells.key]
            del self._keys[entry]

    def _pin(self, holder, change):
        self.pinned += change * holder.tail
        for cells in holder.blocks:
            before = cells.pins
            cells.pins += change
            if not before or not cells.pins:
                self.pinned += change * cells.size
