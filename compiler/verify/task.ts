// What every step of a verification has in hand.
import type { Manifest } from '../contract.ts'
import type { Findings } from './findings.ts'
import type { Probe } from './probes.ts'
import type { GraphFolder, Scratch, VerifyHost } from './session.ts'
import type { Sources } from './sources.ts'

export interface Task {
  readonly artifact: GraphFolder
  readonly manifest: Manifest
  readonly sources: Sources
  readonly probes: readonly Probe[]
  readonly findings: Findings
  readonly host: VerifyHost
  /** Told before each step. */
  readonly onStep: (what: string) => void
}

export async function withScratch<T>(host: VerifyHost, use: (scratch: Scratch) => Promise<T>): Promise<T> {
  const scratch = await host.scratch()
  try {
    return await use(scratch)
  } finally {
    await scratch.discard()
  }
}
