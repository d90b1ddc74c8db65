"""The calculator: forces are slopes, energy is conserved, and nothing stale is returned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from checks.forces import MEAN_ENERGY, ethanol, force_config, save_force_field
from checks.molecules import save_model

from geomformer import api
from geomformer.errors import ArtifactError, ConfigError, DataError
from geomformer.integrations.ase import GeoMFormerCalculator
from geomformer.units import KCAL_PER_MOL_IN_EV

PERIODIC = ("model.images=keys", "model.equivariant_input=neighbours", "model.neighbour_cutoff=4.0")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_force_field(root, "slopes", force_config("conservative"))
    save_force_field(root, "near", force_config("conservative", "model.equivariant_input=neighbours"))
    save_force_field(root, "crystal", force_config("conservative", *PERIODIC))
    save_force_field(root, "direct", force_config("direct"))
    save_force_field(root, "unknown", force_config("direct"), unit="unknown")
    save_model(root, "gap")
    return root


def calculator(store: Path, name: str = "slopes", **options: Any) -> GeoMFormerCalculator:
    return GeoMFormerCalculator(name, models=store, device="cpu", **{"dtype": "float64", **options})


def numerical_forces(atoms: Atoms, step: float = 1e-4) -> np.ndarray:
    """Minus central differences of the energy, eV/Angstrom. (N, 3)"""
    forces = np.zeros((len(atoms), 3))
    for i, axis in np.ndindex(forces.shape):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[i, axis] += sign * step
            moved.calc = atoms.calc
            energies.append(moved.get_potential_energy())
        forces[i, axis] = (energies[1] - energies[0]) / (2 * step)
    return forces


def packed() -> Atoms:
    """Molecules that touch their own copies."""
    atoms = ethanol()
    atoms.set_cell([4.5, 4.0, 4.2])
    atoms.pbc = True
    return atoms


@pytest.mark.parametrize("name", ["slopes", "near", "crystal"])
def test_conservative_forces_are_minus_the_numerical_gradient(store: Path, name: str) -> None:
    atoms = packed() if name == "crystal" else ethanol()
    atoms.calc = calculator(store, name)
    forces = atoms.get_forces()
    assert np.abs(forces).max() > 1e-2
    assert np.abs(forces - numerical_forces(atoms)).max() < 1e-6


def test_units_are_those_of_ase(store: Path) -> None:
    atoms = ethanol()
    atoms.calc = calculator(store)
    energy = atoms.get_potential_energy()
    assert energy == pytest.approx(MEAN_ENERGY * KCAL_PER_MOL_IN_EV, abs=50.0)
    predictor = api.load_model("slopes", models=store, device="cpu")
    (target,) = [target for target in predictor.manifest.targets if target.name == "energy"]
    assert target.unit == "kcal_mol"
    in_ev = target.model_copy(update={"unit": "ev"})
    targets = tuple(in_ev if item is target else item for item in predictor.manifest.targets)
    manifest = predictor.manifest.model_copy(update={"targets": targets})
    other = ethanol()
    other.calc = GeoMFormerCalculator(replace(predictor, manifest=manifest), dtype="float64")
    assert other.get_potential_energy() * KCAL_PER_MOL_IN_EV == pytest.approx(energy, rel=1e-12)
    assert np.allclose(other.get_forces() * KCAL_PER_MOL_IN_EV, atoms.get_forces(), rtol=1e-10, atol=1e-12)


def test_forces_turn_with_the_molecule_and_not_with_its_place(store: Path) -> None:
    atoms = ethanol()
    atoms.calc = calculator(store)
    turned = atoms.copy()
    turned.calc = atoms.calc
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    turned.rotate(40.0, (1.0, 2.0, 3.0))
    turned.translate((100.0, -50.0, 7.0))
    rotation = np.linalg.lstsq(
        atoms.positions - atoms.positions.mean(0), turned.positions - turned.positions.mean(0), rcond=None
    )[0]
    assert turned.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    assert np.abs(forces @ rotation - turned.get_forces()).max() < 1e-9


def test_both_types_agree(store: Path) -> None:
    predictor = api.load_model("slopes", models=store, device="cpu")
    results = []
    for dtype in ("float64", "float32"):
        atoms = ethanol()
        atoms.calc = GeoMFormerCalculator(predictor, dtype=dtype)
        results.append((atoms.get_potential_energy(), atoms.get_forces()))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-4)
    assert np.abs(results[0][1] - results[1][1]).max() < 1e-4
    assert {parameter.dtype.itemsize for parameter in predictor.model.parameters()} == {4}, "the given model is kept"


def test_what_changes_the_answer_is_computed_again_and_nothing_else(store: Path) -> None:
    atoms, crystal = ethanol(), packed()
    atoms.calc, crystal.calc = calculator(store), calculator(store, "crystal")
    calls = []
    for calc in (atoms.calc, crystal.calc):
        calc.network.register_forward_hook(lambda *_: calls.append(1))

    def computed(system: Atoms) -> int:
        before = len(calls)
        system.get_potential_energy(), system.get_forces()
        return len(calls) - before

    assert computed(atoms) == 1 and computed(atoms) == 0
    atoms.positions[0, 0] += 1e-9
    assert computed(atoms) == 1
    atoms.numbers[2] = 6
    assert computed(atoms) == 1
    atoms.set_initial_charges(np.ones(9))
    atoms.set_momenta(np.ones((9, 3)))
    atoms.info["note"] = "another"
    assert computed(atoms) == 0
    assert computed(crystal) == 1 and computed(crystal) == 0
    energy = crystal.get_potential_energy()
    crystal.cell[0] *= 1.01
    assert computed(crystal) == 1 and crystal.get_potential_energy() != energy
    crystal.pbc = (True, True, False)
    assert computed(crystal) == 1
    forces = crystal.get_forces()
    forces[:] = 0.0
    assert np.abs(crystal.get_forces()).max() > 0, "what a caller does with forces does not reach the cache"


def test_what_the_model_cannot_do_is_refused(store: Path) -> None:
    with pytest.raises(ConfigError, match="Expected a model of energies and forces"):
        calculator(store, "gap")
    with pytest.raises(ArtifactError, match="in 'unknown'"):
        calculator(store, "unknown")
    with pytest.raises(ArtifactError):
        calculator(store, "absent")
    with pytest.raises(ConfigError, match="float16"):
        calculator(store, dtype="float16")
    refused = {"N": molecule("NH3"), "periodic": packed(), "no atoms": Atoms(), "finite": ethanol()}
    refused["finite"].positions[0, 0] = np.nan
    for message, atoms in refused.items():
        atoms.calc = calculator(store)
        with pytest.raises(DataError, match=message):
            atoms.get_potential_energy()
    atoms = ethanol()
    atoms.calc = calculator(store)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def total_energies(store: Path, steps: int, timestep: float) -> tuple[np.ndarray, np.ndarray]:
    """Potential and total energy along a trajectory at 300 K, eV. (steps + 1,) each"""
    atoms = ethanol(noise=0.0)
    atoms.calc = calculator(store)
    speeds = np.sqrt(units.kB * 300 / atoms.get_masses())[:, None]
    atoms.set_velocities(speeds * np.random.default_rng(3).normal(size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    found = []
    dynamics.attach(lambda: found.append((atoms.get_potential_energy(), atoms.get_total_energy())))
    dynamics.run(steps)
    potential, total = np.array(found).T
    return potential, total


def test_dynamics_conserve_the_energy(store: Path) -> None:
    """What is not conserved is the integrator's error, which falls with the square of the time step."""
    potential, total = total_energies(store, 40, 1.0)
    _, finer = total_energies(store, 80, 0.5)
    assert np.ptp(total) < 0.05 * np.ptp(potential)
    assert np.abs(finer - finer[0]).max() < 0.35 * np.abs(total - total[0]).max()


@pytest.mark.slow
def test_long_dynamics_do_not_drift(store: Path, record_property: Callable[[str, object], None]) -> None:
    potential, total = total_energies(store, 10_000, 0.5)
    picoseconds = 0.5e-3 * np.arange(len(total))
    drift = 1000 * np.polyfit(picoseconds, total, 1)[0] / 9
    record_property("drift_mev_per_atom_per_ps", drift)
    print(f"drift {drift:.2e} meV per atom and ps over {picoseconds[-1]:.0f} ps, range {1000 * np.ptp(total):.2e} meV")
    assert abs(drift) < 0.1 and np.ptp(total) < 0.05 * np.ptp(potential)


def test_a_geometry_optimisation_converges(store: Path) -> None:
    atoms = ethanol()
    atoms.calc = calculator(store)
    before = atoms.get_potential_energy()
    optimiser = BFGS(atoms, logfile=None)
    assert optimiser.run(fmax=0.02, steps=500)
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.02
    assert atoms.get_potential_energy() < before
