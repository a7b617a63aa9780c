// Why a pattern of an adapter's config cannot be run; callers add whose pattern it is.
export class PatternError extends Error {
  override readonly name = 'PatternError'
}
