// What a verification of surgery needs from the platform: to run graphs that take more than floats and ids.
import type { Folder, OutFolder } from '../host.ts'

export type ProbeTensor = { readonly dims: readonly number[] } & (
  | { readonly type: 'float32'; readonly data: Float32Array }
  /** Bits of halves. */
  | { readonly type: 'float16'; readonly data: Uint16Array }
  | { readonly type: 'int64'; readonly data: BigInt64Array }
  | { readonly type: 'int32'; readonly data: Int32Array }
  | { readonly type: 'bool'; readonly data: Uint8Array }
)
export type ProbeFeeds = Readonly<Record<string, ProbeTensor>>

/** Values may be numbers, integers of 64 bits, or bits of halves, as the platform gives them. */
export interface ProbeResult {
  readonly data: ArrayLike<number | bigint>
  readonly dims: readonly number[]
}

export interface ProbeSession {
  run(feeds: ProbeFeeds): Promise<Readonly<Record<string, ProbeResult>>>
  release(): Promise<void>
}

/** A folder whose graphs can be run. */
export interface ProbeFolder {
  readonly folder: Folder
  openGraph(path: string): Promise<ProbeSession>
}

export interface ProbeScratch extends ProbeFolder {
  readonly out: OutFolder
  discard(): Promise<void>
}

export interface ProbeHost {
  readonly original: ProbeFolder
  /** Of the original's files: above it nothing is run, and the report says so. */
  readonly maxBytes?: number
  /** What was written so far. */
  readonly made: ProbeFolder
  /** An empty folder with room for the model's data and, in float32, for every linear that an adapter changes. */
  scratch(): Promise<ProbeScratch>
}
