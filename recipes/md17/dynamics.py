"""Follows a molecule with a trained force field and says how well the energy is conserved; then relaxes it.

    python recipes/md17/dynamics.py data/models/rmd17-ethanol --data rmd17/ethanol

Velocity Verlet from the first test frame, at constant energy. Conservative forces keep the total energy but for the
error of the integrator, which stays bounded; direct forces need not.
"""

from __future__ import annotations

import argparse

import numpy as np
from ase import Atoms, units
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from geomformer import api
from geomformer.integrations.ase import GeoMFormerCalculator

LARGEST_FORCE = 0.01
"""eV/Angstrom, at which a geometry counts as relaxed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="trained model of energies and forces: name, NAME@VERSION or folder")
    parser.add_argument("--data", required=True, help="prepared dataset with a test split")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--temperature", type=float, default=300.0, help="K, of the first velocities")
    arguments = parser.parse_args()
    record = api.open_dataset(arguments.data).split("test")[0]
    atoms = Atoms(record.atomic_numbers, record.positions[0].astype(float))
    atoms.calc = GeoMFormerCalculator(arguments.model)
    energies = follow(atoms.copy(), atoms.calc, arguments.steps, arguments.timestep, arguments.temperature)
    picoseconds = 1e-3 * arguments.timestep * np.arange(len(energies))
    slope = np.polyfit(picoseconds, energies.sum(1), 1)[0] / len(atoms)
    print(f"{arguments.steps} steps of {arguments.timestep} fs, {picoseconds[-1]:.1f} ps")
    print(f"drift of the total energy: {1e3 * slope:.4f} meV per atom and ps")
    print(f"spread of the total energy: {1e3 * energies.sum(1).std():.2f} meV")
    print(f"spread of the potential energy: {1e3 * energies[:, 0].std():.2f} meV")
    optimiser = BFGS(atoms, logfile=None)
    relaxed = optimiser.run(fmax=LARGEST_FORCE, steps=500)
    print(f"{'relaxed' if relaxed else 'not relaxed'} to {LARGEST_FORCE} eV/Angstrom in {optimiser.nsteps} steps")


def follow(
    atoms: Atoms, calculator: GeoMFormerCalculator, steps: int, timestep: float, temperature: float
) -> np.ndarray:
    """Potential and kinetic energy after every step, eV. (steps + 1, 2)"""
    atoms.calc = calculator
    speeds = np.sqrt(units.kB * temperature / atoms.get_masses())[:, None]
    atoms.set_velocities(speeds * np.random.default_rng(1).standard_normal((len(atoms), 3)))
    Stationary(atoms)
    energies: list[tuple[float, float]] = []
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    dynamics.attach(lambda: energies.append((atoms.get_potential_energy(), atoms.get_kinetic_energy())))
    dynamics.run(steps)
    return np.array(energies)


if __name__ == "__main__":
    main()
