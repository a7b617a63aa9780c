// Tells whoever sends a stream that nobody reads the rest.

/** Waits for nothing: a sender that never answers to its cancelling, or fails in it, must not hold up our own answer. */
export function abandon(stream: { cancel(): Promise<void> } | null | undefined): void {
  stream?.cancel().catch(() => {})
}
