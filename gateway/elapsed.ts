// How old something is that was kept. A clock may be set back; what was kept is then from the future, and not believed.
export const elapsed = (now: number, at: number): number => (at > now ? Number.POSITIVE_INFINITY : now - at)
