// What a verification needs from the platform: to run a graph, and a folder for the graphs that it makes.
import type { Folder, Host, OutFolder } from '../host.ts'

export interface FeedTensor {
  readonly data: Float32Array | BigInt64Array
  readonly dims: readonly number[]
}

export type Feeds = Readonly<Record<string, FeedTensor>>

export interface GraphSession {
  run(feeds: Feeds, outputs?: readonly string[]): Promise<Feeds>
  release(): Promise<void>
}

/** A folder whose graphs can be run. */
export interface GraphFolder {
  readonly folder: Folder
  /** `path`: of an ONNX file in the folder; its external data lies beside it. */
  openGraph(path: string): Promise<GraphSession>
}

export interface Scratch extends GraphFolder {
  readonly out: OutFolder
  discard(): Promise<void>
}

export interface VerifyHost extends Host {
  /** An empty folder with room for a copy of the artifact's weights. */
  scratch(): Promise<Scratch>
}

export const floats = (data: Float32Array, ...dims: number[]): FeedTensor => ({ data, dims })

export const ints = (values: readonly number[], ...dims: number[]): FeedTensor => ({
  data: BigInt64Array.from(values, BigInt),
  dims,
})
