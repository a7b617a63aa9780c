// What a run needs from the platform: files, graphs that can be run, SHA-256 and a clock.
import type { Folder, Host, OutFolder } from '../../compiler/host.ts'
import type { GraphSession } from '../../compiler/verify/session.ts'

/** The folder that a run leaves behind. */
export interface RunFolder extends Folder {
  /** The whole file is there, or what was there before, whatever stops the machine. */
  replace(path: string, bytes: Uint8Array): Promise<void>
  append(path: string, bytes: Uint8Array): Promise<void>
}

export interface TrainHost extends Host {
  readonly run: RunFolder
  /** Room for the base's weights as the graph reads them. */
  readonly work: OutFolder
  /** `path`: of a graph in `work`. */
  openGraph(path: string): Promise<GraphSession>
  /** Milliseconds, from anywhere on. */
  now(): number
}
