// The bank in the device's memory: a slot is one write to the queue per tensor, and between two writes nothing of it moves.
import { graphNames, type Linear } from '../../compiler/contract.ts'
import type { DeviceTensor } from '../../runtime/web.ts'
import { BackendError } from '../errors.ts'
import type { Factors } from './bank.ts'

interface Place {
  readonly linear: Linear
  /** [K, in, R] */
  readonly A: GPUBuffer
  /** [K, R, out] */
  readonly B: GPUBuffer
}

const FLOAT = Float32Array.BYTES_PER_ELEMENT

export class DeviceBank {
  readonly rank: number
  readonly feeds: Readonly<Record<string, DeviceTensor>>
  /** For a batch of base rows alone: one slot of rank 1, all zeros. */
  readonly baseFeeds: Readonly<Record<string, DeviceTensor>>
  readonly #device: GPUDevice
  readonly #places: ReadonlyMap<string, Place>

  private constructor(device: GPUDevice, linears: readonly Linear[], slots: number, rank: number) {
    this.rank = rank
    this.#device = device
    const places = allocate(device, linears, slots, rank)
    this.#places = new Map(places.map((place) => [place.linear.module, place]))
    this.feeds = feedsOf(places, slots, rank)
    this.baseFeeds = feedsOf(allocate(device, linears, 1, 1), 1, 1)
  }

  /** `slots` counts slot 0, which stays zero. Throws `config_invalid` where the device has no memory for it. */
  static async open(device: GPUDevice, linears: readonly Linear[], slots: number, rank: number): Promise<DeviceBank> {
    const largest = Math.max(...linears.map(({ in: inputs, out }) => Math.max(inputs, out))) * slots * rank * FLOAT
    const most = Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize)
    if (largest > most) {
      throw invalid(`a bank of ${slots - 1} slots of rank ${rank} has a tensor of ${largest} bytes`, `takes ${most}`)
    }
    device.pushErrorScope('out-of-memory')
    const bank = new DeviceBank(device, linears, slots, rank)
    const error = await device.popErrorScope()
    if (error === null) return bank
    bank.destroy()
    throw invalid(`a bank of ${slots - 1} slots of rank ${rank} does not fit`, 'has no more memory')
  }

  /** Throws `adapter_refused`, having written nothing, when the adapter does not fit. */
  check({ digest, modules }: Factors): void {
    for (const [module, { A, B, r }] of modules) {
      const place = this.#places.get(module)
      if (place === undefined) throw refused(digest, `changes "${module}", which has no place in the bank`)
      if (r > this.rank) {
        const bound = `the bank holds r=${this.rank} at most; start with bankRank ${r}`
        throw refused(digest, `has r=${r} at "${module}"; ${bound}`)
      }
      if (A.length !== place.linear.in * r || B.length !== r * place.linear.out) {
        throw refused(digest, `has factors of a wrong size at "${module}"`)
      }
    }
  }

  /** The whole slot: what the last adapter left must not shine through where this one is narrower. */
  write(slot: number, factors: Factors): void {
    if (slot === 0) throw new Error('sidepath bug: slot 0 is the base and is never written')
    this.check(factors)
    const R = this.rank
    for (const [module, { linear, A, B }] of this.#places) {
      const [wholeA, wholeB] = [new Float32Array(linear.in * R), new Float32Array(R * linear.out)]
      const given = factors.modules.get(module)
      if (given !== undefined) {
        const { r } = given
        for (let i = 0; i < linear.in; i++) wholeA.set(given.A.subarray(i * r, (i + 1) * r), i * R)
        wholeB.set(given.B)
      }
      this.#device.queue.writeBuffer(A, slot * wholeA.byteLength, wholeA)
      this.#device.queue.writeBuffer(B, slot * wholeB.byteLength, wholeB)
    }
  }

  destroy(): void {
    for (const { buffer } of [...Object.values(this.feeds), ...Object.values(this.baseFeeds)]) buffer.destroy()
  }
}

/** Zeros, as every fresh buffer. */
function allocate(device: GPUDevice, linears: readonly Linear[], slots: number, rank: number): Place[] {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC
  const buffer = (width: number): GPUBuffer => device.createBuffer({ size: slots * rank * width * FLOAT, usage })
  return linears.map((linear) => ({ linear, A: buffer(linear.in), B: buffer(linear.out) }))
}

function feedsOf(places: readonly Place[], slots: number, rank: number): Record<string, DeviceTensor> {
  return Object.fromEntries(
    places.flatMap(({ linear, A, B }): [string, DeviceTensor][] => [
      [graphNames.bankA(linear.module), { buffer: A, dims: [slots, linear.in, rank] }],
      [graphNames.bankB(linear.module), { buffer: B, dims: [slots, rank, linear.out] }],
    ]),
  )
}

function invalid(found: string, bound: string): BackendError {
  return new BackendError(
    'config_invalid',
    `${found}, and the device ${bound}; choose fewer slots or a smaller bankRank`,
  )
}

function refused(digest: string, what: string): BackendError {
  return new BackendError('adapter_refused', `adapter ${digest.slice(0, 12)} ${what}`)
}
