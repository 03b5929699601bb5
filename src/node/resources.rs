//! What pods ask for: requests and limits summed as the scheduler and the kubelet sum them, and
//! the quality-of-service class. Pure.

