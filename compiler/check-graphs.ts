// Before a graph of an artifact is run: its weights lie in files that the manifest lists, and nowhere else.
import { type AnyManifest, graphFiles } from './contract.ts'
import { inputError, Problems, quote } from './errors.ts'
import type { Folder } from './host.ts'
import { MAX_ONNX_BYTES, readOnnx } from './onnx/read.ts'
import type { OnnxGraph } from './onnx/summary.ts'
import { withFile } from './read-file.ts'

/**
 * The runtime opens what a graph names by itself; here it is known beforehand. Throws `InputError`: `onnx-invalid` for a
 * path that leaves the folder, `artifact-invalid` for a file that is not listed, or too short for what the graph reads.
 */
export async function checkGraphs(folder: Folder, { graphs, files }: AnyManifest): Promise<void> {
  const sizes = new Map(files.map(({ path, bytes }) => [path, bytes]))
  const problems = new Problems()
  for (const path of graphFiles({ graphs })) {
    for (const [location, end] of await readEnds(folder, path)) {
      const bytes = sizes.get(location)
      if (bytes !== undefined && end <= bytes) continue
      const found = bytes === undefined ? 'which the manifest does not list' : `up to byte ${end} of its ${bytes}`
      problems.add(
        'artifact-invalid',
        `${folder.name}/${path} reads weights from ${quote(location)}, ${found}; compile the artifact again`,
      )
    }
  }
  problems.throwIfAny()
}

/** File of external data → the byte up to which the graph reads it. */
async function readEnds(folder: Folder, path: string): Promise<Map<string, number>> {
  const bytes = await withFile(folder, path, async (file) => {
    if (file.size <= MAX_ONNX_BYTES) return file.read(0, file.size)
    throw inputError('file-too-large', `${file.name}: ${file.size} bytes; ONNX files have at most ${MAX_ONNX_BYTES}`)
  })
  if (bytes === undefined) throw inputError('file-missing', `${folder.name}/${path} is missing; compile it again`)
  const ends = new Map<string, number>()
  const visit = ({ initializers, nodes }: OnnxGraph): void => {
    for (const { external } of initializers) {
      if (external === undefined) continue
      const end = external.offset + external.length
      ends.set(external.location, Math.max(end, ends.get(external.location) ?? 0))
    }
    for (const { subgraphs } of nodes) for (const graph of subgraphs) visit(graph)
  }
  visit(readOnnx(bytes, `${folder.name}/${path}`).graph)
  return ends
}
