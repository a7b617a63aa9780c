// What a request runs, as far as limits and prices look at it.
interface RunningAdapter {
  readonly kind: 'adapter'
  readonly id: string
  readonly baseDigest: string
}

export type Running =
  | RunningAdapter
  | { readonly kind: 'base'; readonly baseDigest: string }
  | {
      readonly kind: 'mix'
      readonly baseDigest: string
      readonly parts: readonly { readonly adapter: RunningAdapter }[]
    }
