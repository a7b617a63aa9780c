// A place in a browser that keeps runs. One file beside this one per kind of place.
import type { RunFolder } from '../run/host.ts'

export const STORES = ['opfs', 'indexeddb'] as const
export type StoreKind = (typeof STORES)[number]

export interface RunStore {
  readonly kind: StoreKind
  /** In no order. */
  ids(): Promise<string[]>
  /** Made with its first file. `id`: as `newRunId` makes them. */
  open(id: string): RunFolder
  remove(id: string): Promise<void>
}
