// Where a browser keeps runs, so that they outlive the page: its private file system, or IndexedDB where it has none.
import { openIndexedDb } from './indexed-db.ts'
import { hasOpfs, openOpfs } from './opfs.ts'
import type { RunStore, StoreKind } from './run-store.ts'

/** `kind`: the first that is there where absent. */
export function openStore(kind: StoreKind = hasOpfs() ? 'opfs' : 'indexeddb'): Promise<RunStore> {
  return kind === 'opfs' ? openOpfs() : openIndexedDb()
}

/** Sorts by the time of its making. */
export function newRunId(nowMs: number): string {
  return `${nowMs.toString(36).padStart(9, '0')}-${crypto.randomUUID().slice(0, 8)}`
}
