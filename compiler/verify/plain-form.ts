// The form of an artifact without side paths and without quantised operators, deltas written into the weights.
import type { Manifest } from '../contract.ts'
import type { Folder, OutFolder } from '../host.ts'
import { writeDequantisedForm } from './dequantised-form.ts'
import { type Deltas, writeMergedForm } from './merged-form.ts'

/** Gives the largest ‖ΔW‖ / ‖W‖ of a module (Frobenius). */
export function writePlainForm(folder: Folder, manifest: Manifest, deltas: Deltas, out: OutFolder): Promise<number> {
  const write = manifest.quantisation === undefined ? writeMergedForm : writeDequantisedForm
  return write(folder, manifest, deltas, out)
}
