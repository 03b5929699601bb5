//! Identity (keys, certificates, tokens), mTLS connections and streams multiplexed on them.
