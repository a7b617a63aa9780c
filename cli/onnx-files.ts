// Tells exported ONNX from a checkpoint: a file that ends in .onnx, or a folder that has such files and no checkpoint.
import { readdir, stat } from 'node:fs/promises'
import { basename, dirname } from 'node:path'

/** `undefined` where the path is something else, or nothing. */
export async function onnxFiles(path: string): Promise<{ folder: string; files: string[] } | undefined> {
  const there = await stat(path).catch(() => undefined)
  if (there?.isFile() && path.endsWith('.onnx')) return { folder: dirname(path), files: [basename(path)] }
  if (!there?.isDirectory()) return undefined
  const entries = await readdir(path)
  const files = entries.filter((entry) => entry.endsWith('.onnx'))
  return files.length === 0 || entries.some((entry) => entry.endsWith('.safetensors'))
    ? undefined
    : { folder: path, files }
}
