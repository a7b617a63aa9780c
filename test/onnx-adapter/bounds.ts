// What every reading of an .onnx_adapter file must satisfy, however the file was made.
import { expect } from 'vitest'
import { InputError } from '../../compiler/errors.ts'
import { dataBytes, type Parameter } from '../../compiler/onnx-adapter/format.ts'
import { type OnnxAdapter, readOnnxAdapter } from '../../compiler/onnx-adapter/read.ts'
import { writeOnnxAdapter } from '../../compiler/onnx-adapter/write.ts'

/** The same values, as plain data that `toEqual` compares. */
export function plain(parameters: readonly Parameter[]) {
  return parameters.map(({ name, dims, dataType, data }) => ({ name, dims: [...dims], dataType, data: [...data] }))
}

export function problemOf(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof InputError) return `${error.code} ${error.message}`
    throw error
  }
  throw new Error('nothing was refused')
}

/** `undefined` where the file is refused; any error but `InputError` escapes. */
export function readHostile(bytes: Uint8Array<ArrayBuffer>): OnnxAdapter | undefined {
  let adapter: OnnxAdapter
  try {
    adapter = readOnnxAdapter(bytes, 'hostile.onnx_adapter')
  } catch (error) {
    if (error instanceof InputError) return undefined
    throw error
  }
  checkBounds(adapter, bytes)
  return adapter
}

/** Inside the file, no more than the file, and nothing that the writer could not write back. */
function checkBounds({ parameters, ...versions }: OnnxAdapter, bytes: Uint8Array): void {
  let total = 0
  for (const { name, dims, dataType, data } of parameters) {
    if (data.buffer !== bytes.buffer) throw new Error(`${name} is a copy`)
    if (data.byteOffset < bytes.byteOffset) throw new Error(`${name} starts before the file`)
    if (data.byteOffset + data.length > bytes.byteOffset + bytes.length) throw new Error(`${name} ends after the file`)
    if (dataBytes(dims, dataType) !== data.length) throw new Error(`${name} has the wrong size`)
    total += name.length + dims.length * 8 + data.length
  }
  if (total > bytes.length) throw new Error(`${total} bytes were read from a file of ${bytes.length}`)
  const again = readOnnxAdapter(writeOnnxAdapter(versions, parameters), 'again')
  expect(plain(again.parameters)).toEqual(plain(parameters))
}
