// How well a backend is placed for an adapter, by what it says of its slots: 1 where it is resident, 0.8 where a slot is
// free, 0.6 where it waits for one already, 0 where it would have to push another out.
import type { Load } from './driver.ts'

export function scoreLora(load: Load | undefined, name: string): number {
  if (load?.resident.has(name)) return 1
  // A backend that says nothing of slots is not held to be full.
  if (load === undefined || load.freeSlots === null || load.freeSlots > 0) return 0.8
  return load.waiting.has(name) ? 0.6 : 0
}
