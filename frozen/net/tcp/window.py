"""The window that a peer advertises: how much it takes (RFC 9293 3.3.1 and 3.10.7.4)."""


class SendWindow:
    """SND.WND, and the segment that set it: SND.WL1, SND.WL2. Sizes in bytes."""

    size = 0
    wl1 = 0
    wl2 = 0
    # Snd.Wind.Shift (RFC 7323 2.3), 0 where windows are not scaled.
    shift = 0
    # The largest that was advertised: MAX.SND.WND of RFC 5961 5.2, Max(SND.WND) of RFC 9293
    # 3.8.6.2.1.
    largest = 0

    def update(self, size, seq, ack):
        """Take a segment's window unless the last update is newer (3.10.7.4, fifth)."""
        if self.wl1 < seq or (self.wl1 == seq and self.wl2 <= ack):
            self.size = size
            self.wl1 = seq
            self.wl2 = ack
            if size > self.largest:
                self.largest = size
