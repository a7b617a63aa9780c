// Our samples as files. For the oracle: node test/onnx-adapter/our-files.ts test/parity/oracle/onnx-adapter
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { exportOnnxAdapter } from '../../compiler/onnx-adapter/export.ts'
import { writeOnnxAdapter } from '../../compiler/onnx-adapter/write.ts'
import { ALL_TYPES, ALL_TYPES_VERSIONS, MODULES } from './samples.ts'

export const OUR_FILES: ReadonlyMap<string, Uint8Array> = new Map([
  ['ours-all-types.onnx_adapter', writeOnnxAdapter(ALL_TYPES_VERSIONS, ALL_TYPES)],
  ['ours-exported.onnx_adapter', exportOnnxAdapter(MODULES)],
])

if (import.meta.main) {
  const folder = process.argv[2]
  if (folder === undefined) throw new Error('name the folder to write to')
  for (const [name, bytes] of OUR_FILES) writeFileSync(join(folder, name), bytes)
}
